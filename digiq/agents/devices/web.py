"""The user's own web pages, in a browser behind Appium."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast

from pydantic import AfterValidator

from android_env.errors import SetupError
from digiq.agents.devices.base import Script, unlikely
from digiq.config import configclass
from digiq.tables import is_own, own_code, own_name

if TYPE_CHECKING:
    from android_env.appium.device import AppiumDevice


@configclass
class Web:
    """Settings of your own pages. They play any task, and say where it begins and how it ends."""

    plays: ClassVar = ()
    judge: ClassVar = "page_reward"
    waits: ClassVar = True
    exact: ClassVar = False
    packages: ClassVar = ("appium",)

    pages: Annotated[str, AfterValidator(own_name)] = ""
    """A class ``package.module:Class`` with the interface of ``android_env.appium.host.ServedPages``, created without
    arguments. It is imported from the current directory, and runs with your rights."""

    @property
    def code(self) -> tuple[tuple[str, str], ...]:
        """The user's own code that it names."""
        return (("device.web.pages", self.pages),) if is_own(self.pages) else ()

    @property
    def scripts(self) -> Mapping[str, Script]:
        """An agent that acts at random, which needs no knowledge of the pages."""
        from android_env.devices.miniwob.scripts import by_chance

        return {"random": functools.partial(unlikely, by_chance)}

    def maker(self) -> Callable[[], AppiumDevice]:
        from android_env.appium import server
        from android_env.appium.chromium import PHONE, Chromium, find_browser
        from android_env.appium.host import BrowserHost

        if not is_own(self.pages):
            raise SetupError("name the class of your pages with --device.web.pages package.module:Class")
        pages = cast(Callable[[], Any], own_code("device.web.pages", self.pages))
        programs = find_browser()  # fails now if it is missing, not in the first episode

        def browser(pages: Any) -> Chromium:
            made = Chromium(pages, programs=programs)
            made.name = "web"
            return made

        return BrowserHost(server.AppiumServer(), pages, browser, viewport=PHONE).open
