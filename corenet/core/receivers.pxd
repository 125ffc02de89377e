"""A method of an extension type, taken from the type and called on a foreign object, is a TypeError and not a crash.

Rule: every module of the package that defines an extension type ends with ``guard_receivers(globals())``; a test calls
every method of every type on foreign objects.

With ``binding=True``, which annotations and the marks of coroutines need, Cython puts function objects of its own in the
place of CPython's method descriptors. Those take the first argument for ``self`` unseen
(cython/cython#6127), so ``Loop.call_at(5, ...)`` would read the number as a loop. Their vectorcall slot is therefore
given one of three functions that look first, as ``method_vectorcall_*`` of CPython's ``descrobject.c`` do, and call the
C function themselves: the price of a call stays what it was. The owner stands in the field that
``PyCMethodObject`` has for it. What is assumed of the function objects is looked at before anything is changed.
"""

cdef extern from *:
    """
    #include <stddef.h>
    #include <string.h>

    static PyTypeObject *corenet_owner(PyObject *method) {
        return ((PyCMethodObject *)method)->mm_class;
    }

    static int corenet_foreign(PyObject *method, PyObject *const *args, Py_ssize_t count) {
        const char *name = ((PyCFunctionObject *)method)->m_ml->ml_name;
        PyTypeObject *owner = corenet_owner(method);
        if (count < 1) {
            PyErr_Format(PyExc_TypeError, "unbound method %.100s.%.100s() needs an argument", owner->tp_name, name);
            return 1;
        }
        if (!PyObject_TypeCheck(args[0], owner)) {
            PyErr_Format(PyExc_TypeError, "descriptor '%.100s' for '%.100s' objects doesn't apply to a '%.100s' object",
                         name, owner->tp_name, Py_TYPE(args[0])->tp_name);
            return 1;
        }
        return 0;
    }

    /* METH_NOARGS and METH_O: the C function takes the one argument, or nothing in its place. */
    static PyObject *corenet_call_plain(PyObject *method, PyObject *const *args, size_t flagged, PyObject *names) {
        PyMethodDef *definition = ((PyCFunctionObject *)method)->m_ml;
        Py_ssize_t count = PyVectorcall_NARGS(flagged);
        Py_ssize_t wanted = definition->ml_flags == METH_O;
        if (corenet_foreign(method, args, count))
            return NULL;
        if (names != NULL && PyTuple_GET_SIZE(names) > 0) {
            PyErr_Format(PyExc_TypeError, "%.200s() takes no keyword arguments", definition->ml_name);
            return NULL;
        }
        if (count != 1 + wanted) {
            PyErr_Format(PyExc_TypeError, "%.200s() takes %s (%zd given)", definition->ml_name,
                         wanted ? "exactly one argument" : "no arguments", count - 1);
            return NULL;
        }
        return definition->ml_meth(args[0], wanted ? args[1] : NULL);
    }

    static PyObject *corenet_call_any(PyObject *method, PyObject *const *args, size_t flagged, PyObject *names) {
        typedef PyObject *(*any)(PyObject *, PyObject *const *, Py_ssize_t, PyObject *);
        Py_ssize_t count = PyVectorcall_NARGS(flagged);
        if (corenet_foreign(method, args, count))
            return NULL;
        return ((any)(void (*)(void))((PyCFunctionObject *)method)->m_ml->ml_meth)(args[0], args + 1, count - 1, names);
    }

    static PyObject *corenet_call_packed(PyObject *method, PyObject *const *args, size_t flagged, PyObject *names) {
        Py_ssize_t count = PyVectorcall_NARGS(flagged);
        Py_ssize_t i, named = names == NULL ? 0 : PyTuple_GET_SIZE(names);
        PyObject *positional, *keywords = NULL, *result = NULL;
        if (corenet_foreign(method, args, count))
            return NULL;
        positional = PyTuple_New(count - 1);
        if (positional == NULL)
            return NULL;
        for (i = 1; i < count; i++) {
            Py_INCREF(args[i]);
            PyTuple_SET_ITEM(positional, i - 1, args[i]);
        }
        if (named && (keywords = PyDict_New()) == NULL)
            goto done;
        for (i = 0; i < named; i++)
            if (PyDict_SetItem(keywords, PyTuple_GET_ITEM(names, i), args[count + i]) < 0)
                goto done;
        result = ((PyCFunctionWithKeywords)(void (*)(void))((PyCFunctionObject *)method)->m_ml->ml_meth)(
            args[0], positional, keywords);
    done:
        Py_DECREF(positional);
        Py_XDECREF(keywords);
        return result;
    }

    static int corenet_guard_method(PyTypeObject *owner, PyObject *method) {
        PyCMethodObject *seen = (PyCMethodObject *)method;
        PyTypeObject *kind = Py_TYPE(method);
        vectorcallfunc guard = NULL;
        if (kind->tp_basicsize < (Py_ssize_t)sizeof(PyCMethodObject)
                || kind->tp_vectorcall_offset != (Py_ssize_t)offsetof(PyCFunctionObject, vectorcall))
            goto unknown;
        switch (seen->func.m_ml->ml_flags) {
            case METH_NOARGS: case METH_O: guard = corenet_call_plain; break;
            case METH_FASTCALL | METH_KEYWORDS: guard = corenet_call_any; break;
            case METH_VARARGS | METH_KEYWORDS: guard = corenet_call_packed; break;
        }
        if (guard == NULL || seen->mm_class != NULL)
            goto unknown;
        Py_INCREF(owner);
        seen->mm_class = owner;
        seen->func.vectorcall = guard;
        return 0;
    unknown:
        PyErr_Format(PyExc_SystemError, "%.100s: %R is not what corenet knows of Cython's methods", owner->tp_name, method);
        return -1;
    }

    /* The type's own dictionary: `tp_methods` lists no method that is `cpdef`, but only extension types have one. */
    static int corenet_guard_type(PyTypeObject *owner) {
        PyObject *name, *value;
        Py_ssize_t place = 0;
        while (PyDict_Next(owner->tp_dict, &place, &name, &value)) {
            /* Static and class methods are objects of other types. */
            if (strstr(Py_TYPE(value)->tp_name, "cython_function_or_method") == NULL || corenet_owner(value) == owner)
                continue;
            if (corenet_guard_method(owner, value) < 0)
                return -1;
        }
        return 0;
    }

    static int corenet_guard_receivers(PyObject *names) {
        PyObject *name, *value;
        Py_ssize_t place = 0;
        while (PyDict_Next(names, &place, &name, &value)) {
            if (PyType_Check(value) && ((PyTypeObject *)value)->tp_methods != NULL
                    && ((PyTypeObject *)value)->tp_dict != NULL)
                if (corenet_guard_type((PyTypeObject *)value) < 0)
                    return -1;
        }
        return 0;
    }
    """
    int guard_receivers "corenet_guard_receivers"(dict names) except -1
