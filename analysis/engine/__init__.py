"""Edited forward passes: one engine for every question."""
