"""device → gate → ingest → journal → [drain] → cloud. Sends the journal to the cloud, in order, one batch at a time.

The cloud's answer alone moves the cursor. It never skips, reorders or holds back a record, and a record leaves the box
only when the cloud has called it safe.
"""
