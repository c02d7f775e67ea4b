"""A local Deepshi: the image API on 127.0.0.1, with real HTTP, pictures, prices and faults.

It is the other side of the wire and imports nothing from the rest of the provider: both implement the
API's description independently, so that tests reveal a misunderstanding. Start it with
``python -m deepshi_provider.emulator``; in tests use
:class:`deepshi_provider.emulator.testing.Emulator`.
"""
