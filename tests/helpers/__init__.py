"""What tests share: private brokers, faults, processes, clocks and conditions."""
