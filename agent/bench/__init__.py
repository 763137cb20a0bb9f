"""tills' frames → gate → … → cloud, all of it timed by [bench]. `nightsafe bench`: what this machine does, and why.

An outside program: it starts `nightsafe run` and `nightsafe cloud serve` as anybody would, speaks the device contract
to the one and reads the local status, /proc and the journal's own files for the rest. It never changes what it
measures: no setting of the agent is tuned for it.
"""
