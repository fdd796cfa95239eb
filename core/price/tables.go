//house:exempt a table: list prices of providers

package price

import "github.com/isthmus-mesh/isthmus/mesh"

// both are prices that hold among two groups of areas, whichever sends.
func both(price float64, from []Area, to ...Area) map[[2]Area]float64 {
	out := map[[2]Area]float64{}
	for _, a := range from {
		for _, b := range to {
			out[[2]Area{a, b}] = price
		}
	}
	return out
}

func joined(parts ...map[[2]Area]float64) map[[2]Area]float64 {
	out := map[[2]Area]float64{}
	for _, p := range parts {
		for k, v := range p {
			out[k] = v
		}
	}
	return out
}

// tables hold list prices as the maintainers knew them at the dates; a page that says otherwise is right. Later parts of
// Regions stand before earlier ones.
var tables = [...]Table{
	{
		Provider: "AWS", Page: "Amazon EC2 On-Demand Pricing, Data Transfer", Date: "2025-01",
		Zones: 0.02, // 0.01 out and 0.01 in
		Areas: map[string]Area{"us-": NorthAmerica, "ca-": NorthAmerica, "mx-": NorthAmerica, "eu-": Europe, "ap-": Asia, "ap-southeast-2": Oceania,
			"ap-southeast-4": Oceania, "sa-": SouthAmerica, "me-": MiddleEast, "il-": MiddleEast, "af-": Africa, "cn-": China},
		// By the sender alone.
		Regions: both(0.02, []Area{NorthAmerica, Europe}, Anywhere),
		OwnRegions: map[mesh.Region]float64{"ap-northeast-1": 0.09, "ap-northeast-2": 0.08, "ap-northeast-3": 0.09, "ap-southeast-1": 0.09,
			"ap-southeast-2": 0.098, "ap-south-1": 0.086, "ap-east-1": 0.09, "sa-east-1": 0.138, "af-south-1": 0.147, "me-south-1": 0.1105},
		Internet:    map[Area]float64{NorthAmerica: 0.09, Europe: 0.09, Asia: 0.12, Oceania: 0.114, SouthAmerica: 0.15, MiddleEast: 0.117, Africa: 0.154, Anywhere: 0.09},
		OwnInternet: map[mesh.Region]float64{"ap-northeast-1": 0.114, "ap-northeast-2": 0.126, "ap-northeast-3": 0.114, "ap-south-1": 0.1093},
	},
	{
		Provider: "GCP", Page: "Virtual Private Cloud pricing, data transfer within Google Cloud; Network Service Tiers, Premium", Date: "2025-01",
		Zones: 0.01,
		Areas: map[string]Area{"us-": NorthAmerica, "northamerica-": NorthAmerica, "europe-": Europe, "asia-": Asia, "australia-": Oceania,
			"southamerica-": SouthAmerica, "me-": MiddleEast, "africa-": Africa},
		Regions: joined(
			both(0.14, []Area{SouthAmerica}, Anywhere, NorthAmerica, Europe, Asia, Oceania, MiddleEast, Africa, SouthAmerica),
			both(0.11, []Area{MiddleEast, Africa}, Anywhere, NorthAmerica, Europe, Asia, Oceania, MiddleEast, Africa),
			both(0.10, []Area{Oceania}, Anywhere, NorthAmerica, Europe, Asia),
			both(0.08, []Area{Oceania}, Oceania),
			both(0.08, []Area{Asia}, Anywhere, NorthAmerica, Europe, Asia),
			both(0.05, []Area{NorthAmerica}, Europe),
			both(0.02, []Area{NorthAmerica}, NorthAmerica), both(0.02, []Area{Europe}, Europe)),
		Internet: map[Area]float64{Oceania: 0.19, Anywhere: 0.12},
	},
	{
		Provider: "Azure", Page: "Bandwidth Pricing", Date: "2025-01",
		Zones: 0,
		Areas: map[string]Area{"eastus": NorthAmerica, "centralus": NorthAmerica, "northcentralus": NorthAmerica, "southcentralus": NorthAmerica, "westus": NorthAmerica,
			"westcentralus": NorthAmerica, "canada": NorthAmerica, "mexico": NorthAmerica, "northeurope": Europe, "westeurope": Europe, "uk": Europe, "france": Europe,
			"germany": Europe, "norway": Europe, "sweden": Europe, "switzerland": Europe, "italy": Europe, "poland": Europe, "spain": Europe, "austria": Europe,
			"eastasia": Asia, "southeastasia": Asia, "japan": Asia, "korea": Asia, "centralindia": Asia, "southindia": Asia, "westindia": Asia, "indonesia": Asia,
			"malaysia": Asia, "australia": Oceania, "newzealand": Oceania, "brazil": SouthAmerica, "chile": SouthAmerica, "uae": MiddleEast, "qatar": MiddleEast,
			"israel": MiddleEast, "southafrica": Africa},
		// Inside a continent, then by the sender.
		Regions: joined(
			both(0.181, []Area{SouthAmerica}, Anywhere, SouthAmerica, NorthAmerica, Europe, Asia, Oceania, MiddleEast, Africa),
			both(0.08, []Area{Asia, Oceania, MiddleEast, Africa}, Anywhere, Asia, Oceania, MiddleEast, Africa, NorthAmerica, Europe, SouthAmerica),
			both(0.05, []Area{NorthAmerica, Europe}, Anywhere, NorthAmerica, Europe, Asia, Oceania, MiddleEast, Africa, SouthAmerica),
			both(0.02, []Area{NorthAmerica}, NorthAmerica), both(0.02, []Area{Europe}, Europe)),
		Internet: map[Area]float64{NorthAmerica: 0.087, Europe: 0.087, SouthAmerica: 0.181, Anywhere: 0.12},
	},
	{
		// Between regions it depends on the product and its level of service (CEN, CDT), which a cluster does not tell: the price to the
		// internet from the same region is the upper bound that is taken.
		Provider: "Aliyun", Page: "Internet Shared Bandwidth, pay-by-data-transfer; Data Transfer Plan, EIP network fees", Date: "2025-01",
		Zones: 0,
		Areas: map[string]Area{"cn-": China, "cn-hongkong": Asia, "ap-": Asia, "us-": NorthAmerica, "eu-": Europe, "me-": MiddleEast, "na-": NorthAmerica},
		Regions: joined(both(0.123, []Area{China}, Anywhere), both(0.117, []Area{Asia}, Anywhere), both(0.078, []Area{NorthAmerica}, Anywhere),
			both(0.07, []Area{Europe}, Anywhere), both(0.447, []Area{MiddleEast}, Anywhere)),
		OwnRegions:  map[mesh.Region]float64{"cn-hongkong": 0.156, "ap-northeast-1": 0.12},
		Internet:    map[Area]float64{China: 0.123, Asia: 0.117, NorthAmerica: 0.078, Europe: 0.07, MiddleEast: 0.447, Anywhere: 0.123},
		OwnInternet: map[mesh.Region]float64{"cn-hongkong": 0.156, "ap-northeast-1": 0.12},
	},
}
