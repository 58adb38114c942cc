"""Engines that generate replies, behind one joint: `Backend.player(policy)` plays with that policy's weights."""
