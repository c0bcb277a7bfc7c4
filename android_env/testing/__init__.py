"""Test doubles of what is not available on every machine: an Appium server with an Android phone, adb, the emulator,
time."""
