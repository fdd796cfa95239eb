package e2e

func workload(string) error { return nil }

const workloadArg = "workload-of-a-test"
