"""What all benchmarks share: rounds, statistics, results, machines, servers, weights, tables."""
