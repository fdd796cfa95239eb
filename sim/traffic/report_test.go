package traffic

import (
	"context"
	"encoding/csv"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

// TestReports: the table has a row a policy with its ratio to the better oracle, the raw figures add up to what
// was measured, and the plot is a picture.
func TestReports(t *testing.T) {
	m := load(t, "t3-steady")
	m.Description = `a <b> & "c"`
	m.Duration, m.From, m.To = 5*time.Second, time.Second, 4*time.Second
	lines, err := Run(context.Background(), m, []string{"isthmus", "local", "oracle-queue"}, 2)
	if err != nil {
		t.Fatal(err)
	}
	var table, raw, picture strings.Builder
	if err := errors.Join(WriteTable(&table, m, lines), WriteCSV(&raw, lines), WriteSVG(&picture, m, lines)); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"isthmus", "local", "oracle-queue", "1.000 ± 0.000"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, table.String())
		}
	}
	rows, err := csv.NewReader(strings.NewReader(raw.String())).ReadAll()
	if err != nil || len(rows) != 1+3*2*6 && len(rows) != 1+3*2*5 {
		t.Errorf("%d rows, %v", len(rows), err)
	}
	for d := xml.NewDecoder(strings.NewReader(picture.String())); ; {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	all := All(lines)
	if *all[0].ToOracle < 0.95 || all[2].ToOracle == nil || all[1].P99 < all[0].P99 {
		t.Errorf("%+v", all)
	}
	if _, err := Run(context.Background(), m, []string{"magic"}, 1); err == nil {
		t.Error("a policy that nobody knows was run")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Run(ctx, m, []string{"isthmus"}, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
