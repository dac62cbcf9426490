"""A shorter way of compiling functions that take a World.

No Python code can call them, so they need no wrappers and no machine code of their own. numba would optimise each with
all that it calls, turn it into machine code, and do so again in each of its callers: two thirds of the time of a cold
start. Here they are lowered only; what is optimised and turned into machine code is the whole of each function that
Python calls. A type marks itself with `compiled_only = True`.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
from numba.core import typed_passes
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, CompileResult, DefaultPassBuilder
from numba.core.compiler_machinery import FunctionPass, register_pass

from kvmgym.core import notes

KIND = "kvmgym inner"
kept = True  # whether compiled code is kept, for the line about compiling


class _NoEnvironments:
    """A code generator for libraries without machine code: there is no place that would hold an environment."""

    def __init__(self, codegen: Any) -> None:
        self._codegen = codegen

    def set_env(self, name: str, environment: Any) -> None:
        """An environment serves functions that print, or raise what they work out."""
        if environment is not None and environment.consts:
            raise NotImplementedError(f"{name}: a function that takes a World can neither print nor raise objects")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codegen, name)


class InnerLibrary(JITCodeLibrary):  # type: ignore[misc]
    """The lowered code of one function and of what it calls, for linking into others."""

    @property
    def codegen(self) -> Any:
        return _NoEnvironments(self._codegen)

    def _optimize_final_module(self) -> None:
        """The whole that it is linked into is optimised."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """None of its functions has an address."""
        self._ensure_finalized()
        return 0

    def serialize_using_object_code(self) -> tuple[str, str, bytes]:
        """What `load` reads."""
        self._ensure_finalized()
        return self.name, KIND, self._get_module_for_linking().as_bitcode()

    @classmethod
    def load(cls, codegen: Any, state: tuple[str, str, bytes]) -> InnerLibrary:
        """The library that was serialised."""
        name, _, bitcode = state
        library = cls(codegen, name)
        library._final_module = library._shared_module = llvm.parse_bitcode(bitcode)
        library._finalize_final_module()
        return library


class _Loader:
    """A target context that loads an InnerLibrary where numba would load one with machine code."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def codegen(self) -> Any:
        return self

    def unserialize_library(self, state: Any) -> Any:
        codegen = self._context.codegen()
        return InnerLibrary.load(codegen, state) if state[1] == KIND else codegen.unserialize_library(state)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def rebuild(context: Any, payload: tuple[Any, ...]) -> Any:
    """The CompileResult whose `_reduce()` was `payload`, of either kind of library."""
    return CompileResult._rebuild(_Loader(context), *payload)._replace(target_context=context)


@register_pass(mutates_CFG=False, analysis_only=True)
class _ChooseLibrary(FunctionPass):  # type: ignore[misc]
    _name = "kvmgym_choose_library"

    def __init__(self) -> None:
        FunctionPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        if any(getattr(kind, "compiled_only", False) for kind in state.args):
            notes.compiling(kept)
            state.flags.no_cpython_wrapper = True
            state.flags.no_cfunc_wrapper = True
            state.library = InnerLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
            state.library.enable_object_caching()
        return False


class Pipeline(CompilerBase):  # type: ignore[misc]
    """numba's own passes, with an InnerLibrary for functions that take a World."""

    def define_pipelines(self) -> list[Any]:
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.add_pass_after(_ChooseLibrary, typed_passes.NopythonTypeInference)
        passes.finalize()
        return [passes]
