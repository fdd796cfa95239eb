// Package corpus reads the files of attempts that the tests of HTTP hold an engine and a proxy against. Its one idea is that
// an attempt is written down once, byte by byte, and made at whatever takes requests.
//
// It is for tests only and judges nothing. Read Read.
package corpus

import (
	"bufio"
	"bytes"
	"os"
	"strconv"
	"strings"
	"testing"
)

// Vector is one line of a file.
type Vector struct {
	Line    int
	Columns []string // trimmed, without the last
	Bytes   []byte
}

// fewest is how many vectors a file has at least: fewer are a file that was not read.
const fewest = 40

// Read reads a file whose lines have so many columns parted by " | ", the last of which is bytes: ↵ is CRLF, and \n \r \t \0 \\
// \xNN are those alone. Empty lines and those that begin with # are passed over.
func Read(tb testing.TB, file string, columns int) []Vector {
	tb.Helper()
	f, err := os.Open(file)
	if err != nil {
		tb.Fatal(err)
	}
	defer f.Close()
	unescape := strings.NewReplacer("↵", "\r\n", `\n`, "\n", `\r`, "\r", `\t`, "\t", `\0`, "\x00", `\\`, `\`)
	var out []Vector
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		line := lines.Text()
		if line == "" || line[0] == '#' {
			continue
		}
		parts := strings.SplitN(line, " | ", columns)
		if len(parts) != columns {
			tb.Fatalf("%s:%d: %d columns, want %d", file, n, len(parts), columns)
		}
		v := Vector{Line: n}
		for _, p := range parts[:columns-1] {
			v.Columns = append(v.Columns, strings.TrimSpace(p))
		}
		b := []byte(unescape.Replace(parts[columns-1]))
		for {
			i := bytes.Index(b, []byte(`\x`))
			if i < 0 {
				break
			}
			c, err := strconv.ParseUint(string(b[i+2:i+4]), 16, 8)
			if err != nil {
				tb.Fatalf("%s:%d: %v", file, n, err)
			}
			b = append(append(append([]byte(nil), b[:i]...), byte(c)), b[i+4:]...)
		}
		v.Bytes = b
		out = append(out, v)
	}
	if err := lines.Err(); err != nil {
		tb.Fatal(err)
	}
	if len(out) < fewest {
		tb.Fatalf("%s: only %d vectors", file, len(out))
	}
	return out
}
