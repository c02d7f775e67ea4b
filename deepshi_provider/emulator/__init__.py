"""A local Deepshi: the image API on 127.0.0.1, with real HTTP, pictures, prices and faults.

It is the other side of the wire: it imports nothing from the rest of the provider, so that both
read the API's description on their own and a misunderstanding shows. Start it with
``python -m deepshi_provider.emulator``; in tests use
:class:`deepshi_provider.emulator.testing.Emulator`.
"""
