"""``resolverctl import``: makes a configuration of resolverd from that of another resolver.

Each importer reads the whole format of its program, carries over what resolverd has, and names every other line with
its place and a reason. Nothing is dropped silently: a line is carried over, not needed (resolverd always does so, or
chooses by itself), or left out. What has been made is read by resolverd's own parser, so that it is valid.
"""

from resolver.cli.importers.draft import Draft, ImportFailure
from resolver.cli.importers.run import convert, detect

__all__ = ["Draft", "ImportFailure", "convert", "detect"]
