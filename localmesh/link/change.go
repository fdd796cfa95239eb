package link

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Change is a change of Shape; what is nil stays as it is.
type Change struct {
	RTT       *time.Duration
	Jitter    *time.Duration
	Loss      *float64
	Bandwidth *int64
}

// ParseChange reads a change as people write it: "250ms", "5ms", "1%", "10Mbps"; what is empty stays as it is. The error
// joins all faults.
func ParseChange(rtt, jitter, loss, bandwidth string) (Change, error) {
	var c Change
	var faults []error
	for _, d := range []struct {
		name, text string
		to         **time.Duration
	}{{"rtt", rtt, &c.RTT}, {"jitter", jitter, &c.Jitter}} {
		if d.text == "" {
			continue
		}
		v, err := time.ParseDuration(d.text)
		if err != nil || v < 0 {
			faults = append(faults, fmt.Errorf("%s %q: write a duration such as 250ms", d.name, d.text))
		}
		*d.to = &v
	}
	if loss != "" {
		number, ok := strings.CutSuffix(loss, "%")
		v, err := strconv.ParseFloat(number, 64)
		if v /= 100; !ok || err != nil || !(v >= 0 && v <= 1) {
			faults = append(faults, fmt.Errorf("loss %q: write a percentage such as 1%%", loss))
		}
		c.Loss = &v
	}
	if bandwidth != "" {
		v, err := parseBandwidth(bandwidth)
		if err != nil {
			faults = append(faults, err)
		}
		c.Bandwidth = &v
	}
	return c, errors.Join(faults...)
}

// parseBandwidth reads bits a second as the mesh file writes them.
func parseBandwidth(text string) (int64, error) {
	for _, u := range []struct {
		suffix string
		factor float64
	}{{"Gbps", 1e9}, {"Mbps", 1e6}, {"kbps", 1e3}, {"bps", 1}} {
		number, ok := strings.CutSuffix(text, u.suffix)
		if v, err := strconv.ParseFloat(number, 64); ok && err == nil && v*u.factor >= 1 && v*u.factor <= 1e12 {
			return int64(v * u.factor), nil
		}
	}
	return 0, fmt.Errorf("bandwidth %q: write a number and bps, kbps, Mbps or Gbps", text)
}
