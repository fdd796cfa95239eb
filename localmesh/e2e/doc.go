// Package e2e tests the local mesh as a user meets it: the built binary, its commands,
// real processes, real sockets. It holds tests only. ISTHMUS_E2E names the binary; without it
// the tests build one.
package e2e
