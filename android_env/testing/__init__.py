"""Doubles of what cannot be had on every machine: an Appium server with an Android phone, adb, the emulator, time."""
