package price

import (
	"math"
	"strings"
	"testing"

	"github.com/isthmus-mesh/isthmus/mesh"
)

func at(p mesh.Provider, r mesh.Region) *mesh.Cluster {
	return &mesh.Cluster{Name: mesh.ClusterName(string(p) + " " + string(r)), Provider: p, Region: r}
}

func TestBetween(t *testing.T) {
	second := at("aws", "eu-west-1")
	second.Name = "another"
	for _, tt := range []struct {
		from, to *mesh.Cluster
		stated   float64
		want     float64
		source   string // a part of it; "" is not known
	}{
		{at("aws", "eu-west-1"), at("aws", "us-east-1"), 0, 0.02, "AWS between regions"},
		{at("AWS", "ap-south-1"), at("amazon", "us-east-1"), 0, 0.086, "AWS between regions"},
		{at("aws", "eu-west-1"), second, 0, 0.02, "AWS between zones"},
		{at("aws", "eu-west-1"), at("gcp", "europe-west1"), 0, 0.09, "AWS to the internet"},
		{at("aws", "eu-west-1"), at("metal", "cellar"), 0, 0.09, "AWS to the internet"},
		{at("gcp", "us-east1"), at("google", "europe-west1"), 0, 0.05, "GCP between regions"},
		{at("gcp", "europe-west1"), at("gcp", "us-east1"), 0, 0.05, "GCP between regions"},
		{at("gcp", "europe-west1"), at("gcp", "asia-east1"), 0, 0.08, "GCP between regions"},
		{at("gcp", "australia-southeast1"), at("aws", "eu-west-1"), 0, 0.19, "GCP to the internet"},
		{at("azure", "westeurope"), at("azure", "northeurope"), 0, 0.02, "Azure between regions"},
		{at("azure", "westeurope"), at("azure", "eastus"), 0, 0.05, "Azure between regions"},
		{at("azure", "brazilsouth"), at("azure", "eastus"), 0, 0.181, "Azure between regions"},
		{at("aliyun", "cn-hangzhou"), at("alibaba", "eu-central-1"), 0, 0.123, "Aliyun between regions"},
		{at("aliyun", "cn-hongkong"), at("aliyun", "eu-central-1"), 0, 0.156, "Aliyun between regions"},
		{at("gcp", "unheard-of"), at("gcp", "us-east1"), 0, 0.14, "GCP between regions"}, // the dearest
		{at("aws", "eu-west-1"), at("aws", "us-east-1"), 0.005, 0.005, "states"},
		{at("aws", "eu-west-1"), at("aws", "us-east-1"), -1, 0, "states"},
		{at("metal", "cellar"), at("aws", "us-east-1"), 0, 0, ""},
		{at("aws", "eu-west-1"), at("aws", "eu-west-1"), 0, 0, ""},
		{nil, second, 0, 0, ""},
	} {
		got := Between(tt.from, tt.to, tt.stated)
		if math.Abs(got.PerGiB-tt.want) > 1e-12 || got.Known() != (tt.source != "") || !strings.Contains(got.Source, tt.source) {
			t.Errorf("from %v to %v: %+v, want %g %s", tt.from, tt.to, got, tt.want, tt.source)
		}
	}
}

// TestTablesAreSane: every price is one that a provider could ask for, and every table says where it is from and when.
func TestTablesAreSane(t *testing.T) {
	for _, table := range Tables() {
		if table.Page == "" || len(table.Date) != len("2025-01") || len(table.Areas) == 0 || len(table.Regions) == 0 {
			t.Errorf("%s: from %q at %q", table.Provider, table.Page, table.Date)
		}
		sane := func(what any, p float64) {
			if p <= 0 || p > 0.5 {
				t.Errorf("%s, %v: %g dollars a GiB", table.Provider, what, p)
			}
		}
		for k, p := range table.Regions {
			sane(k, p)
		}
		for k, p := range table.Internet {
			sane(k, p)
		}
		for k, p := range table.OwnRegions {
			sane(k, p)
		}
		for k, p := range table.OwnInternet {
			sane(k, p)
		}
		if table.Zones > 0.02 {
			t.Errorf("%s: %g between zones", table.Provider, table.Zones)
		}
	}
}
