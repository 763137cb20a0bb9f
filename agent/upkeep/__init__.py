"""journal ↔ [upkeep] ↔ disk. Keeps the box fit while it runs: room on the disk, records deleted in their time.

Ancillary: recording never waits for it. It deletes nothing that the cloud has not called safe, and no clock steers it.
"""
