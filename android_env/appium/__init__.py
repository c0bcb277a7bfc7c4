"""Devices behind an Appium server: the server, the device, and one dialect for each kind of device."""
