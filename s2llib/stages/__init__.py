"""Stages of a study beyond membership inference, each a mixin of `Study`."""
