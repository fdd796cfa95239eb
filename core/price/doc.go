// Package price says what a GiB costs that goes from one cluster to another. Its one idea is that a list price is better
// than none, and what the owner states is better than both: Between asks the cluster's own object first and then the
// tables of four providers.
//
// The tables are list prices in US dollars of the first paid tier, without discounts, taxes and free allowances, as the pages
// named by Tables gave them at the date beside; "GB" on those pages is taken for a GiB. They know areas, not every pair
// of regions. It looks nothing up and measures nothing. Read Between.
package price

import (
	"strings"

	"github.com/isthmus-mesh/isthmus/mesh"
)

// Quote is a price of a GiB one way, in US dollars.
type Quote struct {
	PerGiB float64
	// Source says where it comes from, for people; empty is not known, and then PerGiB is 0.
	Source string
}

// Known reports whether there is a price.
func (q Quote) Known() bool { return q.Source != "" }

// Between is what a GiB from one cluster to another costs who sends it. stated is what the sender's owner says of the way
// (mesh.Cluster.EgressPerGiB): 0 is nothing, negative is free. Inside a cluster nothing is asked for; between clusters of
// one region it is the price between zones. A receiver of another provider, or of none that is known, is the internet.
func Between(from, to *mesh.Cluster, stated float64) Quote {
	switch {
	case from == nil || to == nil || from.Name == to.Name:
		return Quote{}
	case stated != 0:
		return Quote{max(stated, 0), "as the cluster's owner states"}
	}
	t, ok := tableOf(from.Provider)
	if !ok {
		return Quote{}
	}
	a := t.area(from.Region)
	other, known := tableOf(to.Provider)
	switch {
	case !known || other.Provider != t.Provider:
		return t.quote(t.internet(a, from.Region), "to the internet")
	case from.Region == to.Region:
		return t.quote(t.Zones, "between zones")
	}
	return t.quote(t.regions(a, t.area(to.Region), from.Region), "between regions")
}

// quote names a price's source.
func (t *Table) quote(perGiB float64, way string) Quote {
	return Quote{perGiB, "list price of " + t.Provider + " " + way + ", " + t.Date}
}

// Table is one provider's list prices.
type Table struct {
	Provider string
	// Page is the name of the page that it is from, and Date when that said so.
	Page, Date string
	// Zones is a GiB from one zone to another of a region, what both ends pay.
	Zones float64
	// Areas finds a region's area by the longest beginning of its name.
	Areas map[string]Area
	// Regions is a GiB to another region by the areas of both, or by that of the sender where Anywhere is the other's.
	Regions map[[2]Area]float64
	// Internet is a GiB to anywhere else, by area of the sender.
	Internet map[Area]float64
	// OwnRegions and OwnInternet are regions with prices unlike their area's.
	OwnRegions, OwnInternet map[mesh.Region]float64
}

// Area is a part of the world that a provider prices alike.
type Area string

// The areas. Anywhere stands for all that has no price of its own.
const (
	NorthAmerica Area = "North America"
	Europe       Area = "Europe"
	Asia         Area = "Asia"
	China        Area = "mainland China"
	Oceania      Area = "Oceania"
	SouthAmerica Area = "South America"
	MiddleEast   Area = "Middle East"
	Africa       Area = "Africa"
	Anywhere     Area = "anywhere"
)

// area is where a region is; Anywhere is not known.
func (t *Table) area(r mesh.Region) Area {
	name, best, found := strings.ToLower(string(r)), "", Anywhere
	for begin, a := range t.Areas {
		if strings.HasPrefix(name, begin) && len(begin) > len(best) {
			best, found = begin, a
		}
	}
	return found
}

// regions is the price between areas: that of the pair, else of the sender, else the dearest that is known, since a guess
// should not send anything far.
func (t *Table) regions(from, to Area, region mesh.Region) float64 {
	if p, ok := t.OwnRegions[region]; ok {
		return p
	}
	for _, k := range [...][2]Area{{from, to}, {to, from}, {from, Anywhere}} {
		if p, ok := t.Regions[k]; ok {
			return p
		}
	}
	most := 0.0
	for _, p := range t.Regions {
		most = max(most, p)
	}
	return most
}

func (t *Table) internet(a Area, region mesh.Region) float64 {
	if p, ok := t.OwnInternet[region]; ok {
		return p
	}
	if p, ok := t.Internet[a]; ok {
		return p
	}
	return t.Internet[Anywhere]
}

// tableOf finds a provider's table by the names that people give it.
func tableOf(p mesh.Provider) (*Table, bool) {
	name := strings.ToLower(string(p))
	switch name {
	case "amazon":
		name = "aws"
	case "google", "gce", "gke":
		name = "gcp"
	case "microsoft", "aks":
		name = "azure"
	case "alibaba", "alicloud", "alibabacloud":
		name = "aliyun"
	}
	for i := range tables {
		if strings.ToLower(tables[i].Provider) == name {
			return &tables[i], true
		}
	}
	return nil, false
}

// Tables are all that is known, for people. The caller must not change them.
func Tables() []Table { return tables[:] }
