"""[core] decides; everything around it acts.

Pure functions and values. Time, chance and ids come in as arguments; nothing here reads a clock, a disk or a socket.
"""
