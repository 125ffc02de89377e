"""Cyclic garbage collection of references that Cython does not know: rings, heaps, tables of owned pointers.

Cython generates `tp_traverse` and `tp_clear` of a type from its Python fields only. The collector takes any other
reference for one from outside, so the objects that it leads to are never collected. ``install_gc_hooks`` adds
those references. It is called once, for one type of a module, at the end of the module that defines the type: before
there are instances, subclasses in other modules, or Python subclasses. The type needs at least one Python field, or
Cython makes it a type without cyclic collection.

`visit` calls its argument `visit` once for each owned reference and changes nothing. `drop` releases the references and
leaves the object in a state in which each of its methods works or raises: other objects of the same garbage may call
them.
"""

from cpython.object cimport PyObject

ctypedef int (*VisitProc)(PyObject *item, void *context) noexcept

cdef extern from *:
    """
    typedef int (*corenet_visit)(PyObject *, visitproc, void *);
    typedef void (*corenet_drop)(PyObject *);

    static traverseproc corenet_generated_traverse;
    static inquiry corenet_generated_clear;
    static corenet_visit corenet_visit_owned;
    static corenet_drop corenet_drop_owned;

    static int corenet_traverse(PyObject *self, visitproc visit, void *context) {
        int stop = corenet_generated_traverse(self, visit, context);
        return stop ? stop : corenet_visit_owned(self, visit, context);
    }

    static int corenet_clear(PyObject *self) {
        corenet_drop_owned(self);
        return corenet_generated_clear == NULL ? 0 : corenet_generated_clear(self);
    }

    static int corenet_install_gc_hooks(PyObject *object, corenet_visit visit, corenet_drop drop) {
        PyTypeObject *type = (PyTypeObject *)object;
        if (!PyType_IS_GC(type) || type->tp_traverse == NULL || corenet_visit_owned != NULL) {
            PyErr_Format(PyExc_SystemError, "cannot add references of %.100s to its garbage collection", type->tp_name);
            return -1;
        }
        corenet_generated_traverse = type->tp_traverse;
        corenet_generated_clear = type->tp_clear;
        corenet_visit_owned = visit;
        corenet_drop_owned = drop;
        type->tp_traverse = corenet_traverse;
        type->tp_clear = corenet_clear;
        return 0;
    }
    """
    int install_gc_hooks "corenet_install_gc_hooks"(
        object kind,
        int (*visit)(PyObject *self, VisitProc visit, void *context) noexcept,
        void (*drop)(PyObject *self) noexcept,
    ) except -1

cdef extern from "Python.h":
    void PyObject_GC_Track(PyObject *item) noexcept
    void PyObject_GC_UnTrack(PyObject *item) noexcept
    bint PyObject_GC_IsTracked(PyObject *item) noexcept
