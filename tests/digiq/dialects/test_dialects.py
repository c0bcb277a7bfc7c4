"""What every dialect does, and what agents say in each, in the forms that their own repositories document."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from android_env.actions import Action, ActionType, ParseError
from android_env.errors import ActionError
from digiq.dialects import DIALECTS
from digiq.dialects.base import resized
from digiq.dialects.mobile_use import MobileUse
from digiq.dialects.plain_json import PlainJson
from digiq.dialects.ui_tars import UiTars

SCREEN = (2000, 1000)
TAP, PRESS = Action.tap(0.3, 0.2), Action(ActionType.LONG_PRESS, (0.3, 0.2))
DRAG = Action(ActionType.DUAL_POINT, (0.8, 0.5), (0.2, 0.5))
APP = Action(ActionType.OPEN_APP, text="Clock")
WAIT = Action(ActionType.WAIT)


def point(y: float, x: float) -> Action:
    return Action.tap(y, x)


# bytedance/UI-TARS: codes/README.md, codes/ui_tars/prompt.py and README_coordinates.md; 0 to 1000.
UI_TARS = [
    ("Thought: Click the button\nAction: click(point='<point>200 300</point>')", TAP),
    ("Action: click(start_box='(200,300)')", TAP),
    ("Action: click(start_box='<|box_start|>(200,300)<|box_end|>')", TAP),
    ("Action: click(start_box='[190, 290, 210, 310]')", TAP),
    ('Thought: The "Save" button\nAction: click(point="<point>200 300</point>")', TAP),
    ("Reflection: no effect. Action_Summary: try again\nAction: click(point='<point>200 300</point>')", TAP),
    ("Action: click(point='<point>200 300</point>')[EOS]", TAP),
    ("Action: left_double(point='<point>200 300</point>')", TAP),
    ("Thought: hold it\nAction: long_press(point='<point>200 300</point>')", PRESS),
    ("Action: long_press(start_box='<|box_start|>(200,300)<|box_end|>', time='2')", PRESS),
    ("Action: type(content='red shoes')", Action.type_text("red shoes")),
    ("Action: type(content='red shoes\\n')", Action.type_text("red shoes")),
    ("Action: type(content='it\\'s (really) 5\" wide')", Action.type_text("it's (really) 5\" wide")),
    ("Action: type(content='it's unescaped')", Action.type_text("it's unescaped")),
    ("Action: type(content='line one\nline two')", Action.type_text("line one\nline two")),
    ("Action: open_app(app_name='Clock')", APP),
    ("Action: drag(start_point='<point>500 800</point>', end_point='<point>500 200</point>')", DRAG),
    ("Action: scroll(start_box='(500,800)', end_box='(500,200)')", "up"),
    ("Action: scroll(point='<point>500 500</point>', direction='down')", "up"),
    ("Action: scroll(point='<point>500 500</point>', direction='left')", "right"),
    ("Action: scroll(direction='up')", "down"),
    ("Action: press_home()", Action.home()),
    ("Action: press_back()", Action.back()),
    ("Action: wait()", WAIT),
    ("Thought: Done.\nAction: finished(content='The alarm is set.')", Action.complete()),
    ("Action: click(point='<point>200 300</point>')\n\ntype(content='x')", TAP),
    ("Action: hotkey(key='ctrl c')", "not something a phone can do"),
    ("Action: call_user()", "not something a phone can do"),
    ("Action: click(point='<point>200</point>')", "not a point"),
    ("Action: click(point='<point>2000 300</point>')", "outside"),
    ("Action: teleport(point='<point>200 300</point>')", "no action 'teleport'"),
    ("I cannot help with that.", "no 'Action:'"),
    ("Action: the third button", "not a call"),
]


def called(arguments: str, before: str = "") -> str:
    return f'{before}<tool_call>\n{{"name": "mobile_use", "arguments": {arguments}}}\n</tool_call>'


# QwenLM/Qwen3-VL: cookbooks/mobile_agent.ipynb, cookbooks/utils/agent_function_call.py; pixels here.
MOBILE_USE = [
    (called('{"action": "click", "coordinate": [200, 600]}'), TAP),
    (called('{"action": "click", "coordinate": [200, 600]}', "Thought: tap it.\nAction: Tap Save.\n"), TAP),
    (called('{"action": "click", "coordinate": [190, 580, 210, 620]}'), TAP),
    ('<tool_call>{"name": "mobile_use", "arguments": {"action": "click", "coordinate": [200, 600]}}', TAP),
    ('{"name": "mobile_use", "arguments": {"action": "click", "coordinate": [200, 600]}}', TAP),
    ('{"name": "mobile_use", "arguments": "{\\"action\\": \\"click\\", \\"coordinate\\": [200, 600]}"}', TAP),
    ("<thinking>\n{hm}\n</thinking>\n" + called('{"action": "click", "coordinate": [200, 600]}'), TAP),
    (called('{"action": "click", "coordinate": [200.0, 600.0]}'), TAP),
    (called('{"action": "long_press", "coordinate": [200, 600], "time": 2}'), PRESS),
    (called('{"action": "swipe", "coordinate": [500, 1600], "coordinate2": [500, 400]}'), DRAG),
    (called('{"action": "swipe", "direction": "up", "coordinate": [500, 1600]}'), "up"),
    (called('{"action": "swipe", "direction": "down"}'), "down"),
    (called('{"action": "type", "text": "red shoes"}'), Action.type_text("red shoes")),
    (called('{"action": "type", "text": "say \\"hi\\", {you}"}'), Action.type_text('say "hi", {you}')),
    (called('{"action": "type", "text": 42}'), Action.type_text("42")),
    (called('{"action": "answer", "text": "42"}'), Action(ActionType.ANSWER, text="42")),
    (called('{"action": "open", "text": "Clock"}'), APP),
    (called('{"action": "open_app", "app_name": "Clock"}'), APP),
    (called('{"action": "system_button", "button": "Back"}'), Action.back()),
    (called('{"action": "system_button", "button": "Home"}'), Action.home()),
    (called('{"action": "system_button", "button": "Enter"}'), Action.enter()),
    (called('{"action": "wait", "time": 5}'), WAIT),
    (called('{"action": "terminate", "status": "success"}'), Action.complete()),
    (called('{"action": "terminate", "status": "failure"}'), Action.impossible()),
    (called('{"action": "system_button", "button": "Menu"}'), "no button 'menu'"),
    (called('{"action": "key", "text": "volume_up"}'), "no button 'volume_up'"),
    (called('{"action": "terminate", "status": "maybe"}'), "neither success nor failure"),
    (called('{"action": "click"}'), "'click' lacks a point"),
    (called('{"action": "click", "coordinate": [200, 6000]}'), "outside"),
    (called('{"action": "click", "coordinate": [200, true]}'), "not a point"),
    (called('{"coordinate": [200, 600]}'), "name no action"),
    ('<tool_call>\n{"name": "mobile_use", "arguments": {"action": "cl', "no JSON object"),
    ("The task is done.", "no JSON object"),
]

# google-research/android_control/README.md and android_world/env/json_action.py; pixels.
PLAIN_JSON = [
    ('{"action_type": "click", "x": 200, "y": 600}', TAP),
    ('Reason: it saves. Action: {"action_type": "click", "x": 200, "y": 600}', TAP),
    ('```json\n{"action_type": "click", "x": 200, "y": 600}\n```', TAP),
    ('{"action": "tap", "coordinate": [200, 600]}', TAP),
    ('{"type": "tap", "point": {"x": 1}}', "not a point"),
    ('{"action_type": "double_tap", "x": 200, "y": 600}', Action.double_tap(*TAP.touch_yx)),
    (
        '{"action_type": "drag", "x": 500, "y": 1600, "x2": 500, "y2": 400}',
        Action.drag(DRAG.touch_yx, DRAG.lift_yx),
    ),
    ('{"action_type": "drag", "x": 500, "y": 1600}', "lacks an end"),
    ('{"action_type": "recent_apps"}', Action.recent_apps()),
    ('{"action_type": "long_press", "x": 200, "y": 600}', PRESS),
    ('{"action_type": "scroll", "direction": "down"}', "up"),
    ('{"action_type": "swipe", "direction": "up"}', "up"),
    ('{"action_type": "swipe", "x": 500, "y": 1600, "x2": 500, "y2": 400}', DRAG),
    ('{"action_type": "open_app", "app_name": "Clock"}', APP),
    ('{"action_type": "input_text", "text": "red shoes"}', Action.type_text("red shoes")),
    ('{"action": "type", "text": "red shoes"}', Action.type_text("red shoes")),
    ('{"action_type": "navigate_home"}', Action.home()),
    ('{"action_type": "navigate_back"}', Action.back()),
    ('{"action_type": "keyboard_enter"}', Action.enter()),
    ('{"action_type": "wait"}', WAIT),
    ('{"action_type": "status", "goal_status": "complete"}', Action.complete()),
    ('{"action_type": "status", "goal_status": "infeasible"}', Action.impossible()),
    ('{"action_type": "answer", "text": "42"}', Action(ActionType.ANSWER, text="42")),
    ('{"action_type": "CLICK", "x": 200, "y": 600}', TAP),
    ('{"action_type": "click", "index": 3}', "by its index"),
    ('{"action_type": "click", "x": 200}', "'click' lacks a point"),
    ('{"x": 200, "y": 600}', "names the action"),
    ('["click", 200, 600]', "no JSON object"),
    ('{"action_type": "click", "x": 1e999, "y": 600}', "outside"),
    ("{" * 5000, "no JSON object"),
]

SAID = [
    *((UiTars(), text, expected) for text, expected in UI_TARS),
    *((MobileUse(coordinates="pixels"), text, expected) for text, expected in MOBILE_USE),
    *((PlainJson(), text, expected) for text, expected in PLAIN_JSON),
]


@pytest.mark.parametrize(("dialect", "text", "expected"), SAID)
def test_what_agents_say(dialect, text, expected):
    found = dialect.parse(text, SCREEN)
    if isinstance(expected, Action):
        assert found == expected
    elif expected in ("up", "down", "left", "right"):
        assert isinstance(found, Action) and found.swipe_direction == expected
    else:
        assert isinstance(found, ParseError) and expected in found.reason and found.string == text


def test_there_are_twenty_outputs_of_each():
    assert all(
        sum(isinstance(e, Action) for _, e in said) >= 17 for said in (UI_TARS, MOBILE_USE, PLAIN_JSON)
    )
    assert all(len(said) >= 20 for said in (UI_TARS, MOBILE_USE, PLAIN_JSON))


@pytest.mark.parametrize(
    ("coordinates", "where"),
    [("pixels", (250, 500)), ("thousandths", (250, 250)), ("fractions", (0.25, 0.25))],
)
@pytest.mark.parametrize("make", [PlainJson, MobileUse, UiTars])
def test_coordinates_are_counted_as_the_settings_say(make, coordinates, where):
    said = make(coordinates=coordinates)
    assert said.parse(said.write(point(0.25, 0.25), SCREEN), SCREEN) == point(0.25, 0.25)
    assert all(f"{v:g}" in said.write(point(0.25, 0.25), SCREEN) for v in where)


def test_pixels_of_the_resized_image_are_those_of_qwens_processor():
    # smart_resize(2400, 1080) of qwen-vl-utils with UI-TARS' bounds; both sides become multiples of 28.
    assert resized((2400, 1080)) == (2408, 1092)
    found = MobileUse().parse(called('{"action": "click", "coordinate": [546, 1204]}'), (2400, 1080))
    assert found == point(0.5, 0.5)
    height, width = resized((40, 20))
    assert height * width >= 100 * 28 * 28


def test_a_coordinate_slightly_outside_is_on_the_edge():
    found = PlainJson().parse('{"action_type": "click", "x": 1001, "y": 2000}', SCREEN)
    assert found == point(1.0, 1.0)


ACTIONS = [
    point(0.25, 0.5),
    DRAG,
    Action.type_text('it\'s "5", ok\\'),
    Action.back(),
    Action.home(),
    Action.enter(),
    Action.complete(),
    Action.impossible(),
    PRESS,
    APP,
    WAIT,
    Action(ActionType.ANSWER, text="yes"),
]


@pytest.mark.parametrize("name", DIALECTS)
@pytest.mark.parametrize("action", ACTIONS)
def test_what_a_dialect_writes_it_reads(name, action):
    dialect = DIALECTS[name]()
    try:
        said = dialect.write(action, SCREEN)
    except ActionError as error:
        assert action.type.name in str(error)
        return
    found = dialect.parse(said, SCREEN)
    assert isinstance(found, Action) and found.type == action.type and found.text == action.text
    assert found.touch_yx == pytest.approx(action.touch_yx, abs=0.001)
    assert found.lift_yx == pytest.approx(action.lift_yx, abs=0.001)


@pytest.mark.parametrize("name", DIALECTS)
@settings(max_examples=60, deadline=None)
@given(
    text=st.text() | st.from_regex(r"Action: [a-z_]+\([a-z_]+='.*'\)?") | st.from_regex(r'\{"action": .*\}?')
)
def test_no_text_raises(name, text):
    assert isinstance(DIALECTS[name]().parse(text, SCREEN), Action | ParseError)


@pytest.mark.parametrize("name", DIALECTS)
def test_a_manual_names_what_there_is(name):
    assert len(DIALECTS[name]().manual) > 100
