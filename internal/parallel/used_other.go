//go:build !unix

package parallel

import "time"

func used() (time.Duration, bool) { return 0, false }
