"""The kernel kind: facts as columns of one linear system that a change of weights solves (ROME, MEMIT, EMMET)."""

from lifelong_edit.kinds.kernel.kernel import Kernel

KIND = Kernel
