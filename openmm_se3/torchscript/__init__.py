"""The network as TorchScript in OpenMM's units, checked equal to the network.

modules       what OpenMM calls, for the general case and recorded for its atoms
build         the module of one force: its model, its atoms, a box or none
graph_passes  recorded graphs made shorter
self_check    exported equals eager
"""
