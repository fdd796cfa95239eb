// Package table writes rows under a head, aligned for people. Its one idea is that a cell that is bad says so itself, by a
// mark that takes no width and becomes a colour where there are colours.
//
// It knows nothing of what stands in the cells. Read Table.
package table

import (
	"io"
	"strings"
)

// Table is rows under a head, aligned as they are printed.
type Table struct {
	Head []string
	Rows [][]string
}

// Add adds a row.
func (t *Table) Add(cells ...string) { t.Rows = append(t.Rows, cells) }

// Red marks a cell as bad: shown in colour where there is any. It takes no width.
const Red = "\x00"

// Print writes the table; cells that are empty show as <none>.
func (t *Table) Print(w io.Writer, colour bool) error {
	width := make([]int, len(t.Head))
	for i, h := range t.Head {
		width[i] = len(h)
	}
	for _, r := range t.Rows {
		for i, c := range r {
			if c == "" || c == Red {
				r[i] = "<none>"
			}
			width[i] = max(width[i], len([]rune(strings.TrimPrefix(r[i], Red))))
		}
	}
	var b strings.Builder
	line := func(cells []string) {
		for i, c := range cells {
			text, bad := strings.CutPrefix(c, Red)
			pad := width[i] - len([]rune(text)) + 3
			if bad && colour {
				text = "\x1b[31m" + text + "\x1b[0m"
			}
			b.WriteString(text)
			if i < len(cells)-1 {
				b.WriteString(strings.Repeat(" ", pad))
			}
		}
		b.WriteByte('\n')
	}
	line(t.Head)
	for _, r := range t.Rows {
		line(r)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// PrintRow prints the head once and then rows as they come: columns are as wide as in the
// first row, or the head.
func (t *Table) PrintRow(w io.Writer, colour bool, head *bool) error {
	if *head {
		*head = false
		return t.Print(w, colour)
	}
	var b strings.Builder
	if err := t.Print(&b, colour); err != nil {
		return err
	}
	_, rest, _ := strings.Cut(b.String(), "\n")
	_, err := io.WriteString(w, rest)
	return err
}
