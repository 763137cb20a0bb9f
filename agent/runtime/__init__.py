"""[runtime] carries everything: lifetime of stages, clocks, logs, files, the service manager.

Knows nothing of events, venues or the cloud, and never decides anything about the business.
"""
