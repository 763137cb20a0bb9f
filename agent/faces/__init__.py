"""code → [faces] → docs. What others build against, written down for machines: device contract and local HTTP.

Makes `docs/asyncapi.yaml`, `docs/openapi.yaml` and `docs/schemas/` from the types that judge and encode at run time, so
that they cannot say anything else. Nothing of the running agent imports it.
"""
