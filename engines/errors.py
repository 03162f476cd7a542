"""What can go wrong with engines. Errors cross processes, so each is picklable: its args are its text."""


class EngineError(Exception):
    """Base of this room's errors."""


class HardwareUnavailable(EngineError):
    """The accelerator that was asked for is not there."""


class EngineStartError(EngineError):
    """An engine or router did not come up; the text ends with the last lines of its log."""


class EngineLost(EngineError):
    """A running engine or router process is gone or no longer answers."""


class EngineOutOfMemory(EngineError):
    """An engine ended for want of memory, the accelerator's or its host's, while it started or later."""


class EngineRefused(EngineError):
    """The engine answered a request with a client error; the text is the engine's."""


class PlacementTimeout(EngineError):
    """The cluster did not have the resources in time; the text says what was missing."""


class WeightSyncError(EngineError):
    """A weight update failed; receivers may hold a mixture and must be updated or replaced."""


class WaitTimeout(EngineError):
    """A wait passed its deadline; the text says what it waited for."""
