package localmesh

import (
	"time"

	"github.com/isthmus-mesh/isthmus/codec/manifest"
	"github.com/isthmus-mesh/isthmus/mesh"
)

// Default is the mesh of `isthmus up` without a file: three regions under three bodies of
// law, and a shop in each.
func Default() manifest.LocalMesh {
	clusters := []manifest.LocalCluster{
		{Name: "eu-west", Region: "eu-west-1", Network: "eu", Jurisdiction: "EU"},
		{Name: "us-east", Region: "us-east-1", Network: "us", Jurisdiction: "US"},
		{Name: "ap-south", Region: "ap-south-1", Network: "ap", Jurisdiction: "IN"},
	}
	var names []mesh.ClusterName
	for i := range clusters {
		clusters[i].Provider = "aws"
		clusters[i].Zones = []mesh.Zone{"a", "b"}
		names = append(names, clusters[i].Name)
	}
	m := manifest.LocalMesh{
		Clusters: clusters,
		Links: []manifest.LocalLink{
			{Between: [2]mesh.ClusterName{"eu-west", "us-east"}, RTT: 80 * time.Millisecond},
			{Between: [2]mesh.ClusterName{"eu-west", "ap-south"}, RTT: 120 * time.Millisecond},
			{Between: [2]mesh.ClusterName{"us-east", "ap-south"}, RTT: 200 * time.Millisecond},
		},
	}
	for _, w := range []struct {
		name     string
		replicas int
	}{{"frontend", 1}, {"catalog", 2}, {"reviews", 1}, {"cart", 1}} {
		m.Workloads = append(m.Workloads, manifest.LocalWorkload{Namespace: "shop", Name: w.name, Clusters: names, Replicas: w.replicas,
			Port: manifest.DefaultPort, ServicePort: manifest.DefaultServicePort, Protocol: manifest.DefaultProtocol, Builtin: manifest.RunShop, Export: true})
	}
	return m
}
