"""Devices behind an Appium server: the server, the device, and the dialects that kinds of devices speak."""
