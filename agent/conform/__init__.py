"""a vendor's device ↔ [conform] ↔ a real box. Plays the hard cases of the device contract against one device.

An outside program: it starts a box of its own, stands between box and device as a relay that loses, forges and delays
packets, writes down what it sees, and judges it by pure rules. Never touches another box, and nothing of the agent's.
"""
