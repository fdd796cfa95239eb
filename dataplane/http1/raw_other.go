//go:build !unix

package http1

func (in *input) tryRead(uintptr) bool { return true }

func (in *input) tryIdle(uintptr) {}

func (in *input) tryRest(uintptr) bool { return true }
