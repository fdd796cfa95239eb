//go:build !linux

package store_test

import "errors"

const diskEnv = "ISTHMUS_TEST_STORE_DISK"

func faultyDisk(string) error { return errors.New("there is no seccomp") }
