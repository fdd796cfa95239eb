package derive_test

import (
	"fmt"
	"slices"

	"github.com/isthmus-mesh/isthmus/core/derive"
)

// library is a world: who has borrowed which book.
type library struct {
	reader map[string]string   // by book
	shelf  map[string][]string // books by subject
}

// The world's package declares what can be read of it.
var (
	borrowed = derive.NewFact("borrowed", func(w library, book string) (string, bool) {
		reader, ok := w.reader[book]
		return reader, ok
	})
	shelf = derive.NewBucket("shelf", func(w library, subject string) []string { return w.shelf[subject] })
)

// The thinking package declares functions of it.
var (
	available = derive.NewFunc("available", slices.Equal[[]string], func(c *derive.Ctx, subject string) []string {
		var books []string
		for _, book := range shelf.Get(c, subject) {
			if _, gone := borrowed.Get(c, book); !gone {
				books = append(books, book)
			}
		}
		return books
	})
	sign = derive.NewFunc("sign", derive.Same[string], func(c *derive.Ctx, subject string) string {
		if len(available.Get(c, subject)) == 0 {
			return subject + ": all lent"
		}
		return subject + ": come in"
	})
)

func Example() {
	shelves := map[string][]string{"poetry": {"Duino Elegies", "Odes"}}
	e := derive.New(library{nil, shelves})
	sign.Watch(e, "poetry")
	tell := func() {
		for _, ch := range e.Settle(2).Changed {
			if subject, before, after, ok := sign.Change(ch); ok {
				fmt.Printf("%s: %q → %q\n", subject, before, after)
			}
		}
	}
	tell()

	// One book goes: available(poetry) changes, sign(poetry) does not, nobody hears of it.
	e.Commit(library{map[string]string{"Odes": "Ada"}, shelves}, borrowed.Ref("Odes"))
	tell()

	e.Commit(library{map[string]string{"Odes": "Ada", "Duino Elegies": "Bo"}, shelves}, borrowed.Ref("Duino Elegies"))
	tell()

	fmt.Println(available.Ref("poetry"), "read", e.Reads(available.Ref("poetry")))
	// Output:
	// poetry: "" → "poetry: come in"
	// poetry: "poetry: come in" → "poetry: all lent"
	// available(poetry) read [shelf(poetry) borrowed(Duino Elegies) borrowed(Odes)]
}
