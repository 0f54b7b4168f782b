"""On PYTHONPATH of a program: its machine lacks the modules that LACKS names, with commas between
them. Who looks for one finds none, and who imports it is told what Python says of any such."""

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

LACKS = frozenset(os.environ["LACKS"].split(","))


class LeanFinder(PathFinder):
    """Finds what is installed, but for these."""

    @classmethod
    def find_spec(cls, fullname: str, *rest: Any) -> ModuleSpec | None:
        if fullname.partition(".")[0] in LACKS:
            return None
        return super().find_spec(fullname, *rest)


sys.meta_path[sys.meta_path.index(PathFinder)] = LeanFinder
