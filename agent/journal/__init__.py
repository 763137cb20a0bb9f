"""device → gate → ingest → [journal] → drain → cloud. The durable, ordered log of one venue, in SQLite.

Owns the database file, the one write connection (writing.py), which takes in events (writer.py) and serves the drain
(uploads.py), repairs (mending.py) and retention (keeping.py), and the reading of batches. What it has acknowledged
survives a power cut. It never drops, reorders or rewrites a record, and never speaks to a device or the cloud.
"""
