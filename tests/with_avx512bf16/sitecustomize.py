"""On PYTHONPATH this lets bitsandbytes take any CPU for one with AVX512-BF16, from its import on, in every process."""

import importlib.util
import sys
from importlib.abc import MetaPathFinder


class Flag(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "bitsandbytes.functional":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.has_avx512bf16 = lambda: True

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Flag())
