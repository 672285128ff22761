"""A servicer put together from subjects: each a class with some of a service's methods, in a file of its own."""

from google.protobuf.descriptor import ServiceDescriptor


def serve_subjects(servicer: object, service: ServiceDescriptor, *subjects: object) -> None:
    """Have each method of `service` be served by the first of `subjects` that has one of its name.

    `servicer` is of the generated base class, which answers UNIMPLEMENTED for what no subject serves.
    """
    for method in service.methods:
        found = (getattr(each, method.name, None) for each in subjects)
        if (served := next((own for own in found if own), None)) is not None:
            setattr(servicer, method.name, served)
