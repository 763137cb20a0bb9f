"""[tills] → gate. Simulated tills and the demo: outside programs that know nothing of the box but its contract.

They speak MQTT as any stock client does, keep an outbox of their own on disk, and judge the box by their own files and
the cloud's export. They never import the box: of its packages they use `core` at most.
"""
