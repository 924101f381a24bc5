//! Who runs a graph: the device interface and the CPU.
