"""A folder to work in, as a user has one."""

from project import backbones, call, project, start  # noqa: F401 - fixtures
