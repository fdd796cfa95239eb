//house:exempt a table: the fields of adopted kinds

package manifest

// The shapes of the adopted core objects: the fields of k8s.io/api v0.36, checked
// against it by TestShapesHaveTheUpstreamFields.

// header is what every object begins with.
type header struct {
	APIVersion string     `json:"apiVersion" is:"required"`
	Kind       string     `json:"kind" is:"required"`
	Metadata   objectMeta `json:"metadata"`
}

// objectMeta is metav1.ObjectMeta. What servers set is accepted and dropped.
type objectMeta struct {
	Name              string            `json:"name"`
	GenerateName      string            `json:"generateName"`
	Namespace         string            `json:"namespace" is:"label"`
	SelfLink          string            `json:"selfLink"`
	UID               string            `json:"uid"`
	ResourceVersion   string            `json:"resourceVersion"`
	Generation        int64             `json:"generation"`
	CreationTimestamp string            `json:"creationTimestamp" is:"time"`
	DeletionTimestamp string            `json:"deletionTimestamp" is:"time"`
	DeletionGrace     int64             `json:"deletionGracePeriodSeconds"`
	Labels            map[string]string `json:"labels"`
	Annotations       map[string]string `json:"annotations"`
	OwnerReferences   []anything        `json:"ownerReferences"`
	Finalizers        []string          `json:"finalizers"`
	ManagedFields     []anything        `json:"managedFields"`
}

type namespace struct {
	header `json:",inline"`
	Spec   struct {
		Finalizers []string `json:"finalizers"`
	} `json:"spec"`
	Status anything `json:"status"`
}

type serviceAccount struct {
	header           `json:",inline"`
	Secrets          []objectRef `json:"secrets"`
	ImagePullSecrets []struct {
		Name string `json:"name"`
	} `json:"imagePullSecrets"`
	AutomountToken *bool `json:"automountServiceAccountToken"`
}

type objectRef struct {
	Kind            string `json:"kind"`
	Namespace       string `json:"namespace"`
	Name            string `json:"name"`
	UID             string `json:"uid"`
	APIVersion      string `json:"apiVersion"`
	ResourceVersion string `json:"resourceVersion"`
	FieldPath       string `json:"fieldPath"`
}

type secret struct {
	header     `json:",inline"`
	Immutable  *bool             `json:"immutable"`
	Data       map[string]string `json:"data" is:"base64"`
	StringData map[string]string `json:"stringData"`
	Type       string            `json:"type"`
}

type configMap struct {
	header     `json:",inline"`
	Immutable  *bool             `json:"immutable"`
	Data       map[string]string `json:"data"`
	BinaryData map[string]string `json:"binaryData" is:"base64"`
}

type service struct {
	header `json:",inline"`
	Spec   serviceSpec `json:"spec" is:"required"`
	Status anything    `json:"status"`
}

type serviceSpec struct {
	Ports                         []servicePort     `json:"ports"`
	Selector                      map[string]string `json:"selector"`
	ClusterIP                     string            `json:"clusterIP"`
	ClusterIPs                    []string          `json:"clusterIPs"`
	Type                          string            `json:"type" is:"enum=ClusterIP|NodePort|LoadBalancer|ExternalName"`
	ExternalIPs                   []string          `json:"externalIPs" is:"ip"`
	SessionAffinity               string            `json:"sessionAffinity" is:"enum=ClientIP|None"`
	LoadBalancerIP                string            `json:"loadBalancerIP"`
	LoadBalancerSourceRanges      []string          `json:"loadBalancerSourceRanges"`
	ExternalName                  string            `json:"externalName"`
	ExternalTrafficPolicy         string            `json:"externalTrafficPolicy" is:"enum=Cluster|Local"`
	HealthCheckNodePort           int32             `json:"healthCheckNodePort" is:"0..65535"`
	PublishNotReadyAddresses      bool              `json:"publishNotReadyAddresses"`
	SessionAffinityConfig         *affinityConfig   `json:"sessionAffinityConfig"`
	IPFamilies                    []string          `json:"ipFamilies" is:"enum=IPv4|IPv6"`
	IPFamilyPolicy                *string           `json:"ipFamilyPolicy" is:"enum=SingleStack|PreferDualStack|RequireDualStack"`
	AllocateLoadBalancerNodePorts *bool             `json:"allocateLoadBalancerNodePorts"`
	LoadBalancerClass             *string           `json:"loadBalancerClass"`
	InternalTrafficPolicy         *string           `json:"internalTrafficPolicy" is:"enum=Cluster|Local"`
	TrafficDistribution           *string           `json:"trafficDistribution"`
}

type affinityConfig struct {
	ClientIP *struct {
		TimeoutSeconds *int32 `json:"timeoutSeconds" is:"1..86400"`
	} `json:"clientIP"`
}

type servicePort struct {
	Name        string      `json:"name" is:"label"`
	Protocol    string      `json:"protocol" is:"enum=TCP|UDP|SCTP"`
	AppProtocol *string     `json:"appProtocol"`
	Port        int32       `json:"port" is:"required 1..65535"`
	TargetPort  intOrString `json:"targetPort"`
	NodePort    int32       `json:"nodePort" is:"0..65535"`
}

type endpointSlice struct {
	header      `json:",inline"`
	AddressType string          `json:"addressType" is:"required enum=IPv4|IPv6|FQDN"`
	Endpoints   []sliceEndpoint `json:"endpoints" is:"items=0..1000"`
	Ports       []endpointPort  `json:"ports" is:"items=0..20000 unique=name"`
}

type sliceEndpoint struct {
	Addresses  []string `json:"addresses" is:"required items=1..100"`
	Conditions struct {
		Ready       *bool `json:"ready"`
		Serving     *bool `json:"serving"`
		Terminating *bool `json:"terminating"`
	} `json:"conditions"`
	Hostname           *string           `json:"hostname" is:"label"`
	TargetRef          *objectRef        `json:"targetRef"`
	DeprecatedTopology map[string]string `json:"deprecatedTopology"`
	NodeName           *string           `json:"nodeName"`
	Zone               *string           `json:"zone"`
	Hints              anything          `json:"hints"`
}

type endpointPort struct {
	Name        *string `json:"name"`
	Protocol    *string `json:"protocol" is:"enum=TCP|UDP|SCTP"`
	Port        *int32  `json:"port" is:"1..65535"`
	AppProtocol *string `json:"appProtocol"`
}

type serviceExport struct {
	header `json:",inline"`
	Spec   struct {
		ExportedLabels      map[string]string `json:"exportedLabels"`
		ExportedAnnotations map[string]string `json:"exportedAnnotations"`
	} `json:"spec"`
	Status anything `json:"status"`
}

type serviceImport struct {
	header `json:",inline"`
	Spec   struct {
		Ports []struct {
			Name        string  `json:"name" is:"label"`
			Protocol    string  `json:"protocol" is:"enum=TCP|UDP|SCTP"`
			AppProtocol *string `json:"appProtocol"`
			Port        int32   `json:"port" is:"required 1..65535"`
		} `json:"ports" is:"unique=port,protocol"`
		IPs                   []string        `json:"ips" is:"ip items=0..2"`
		Type                  string          `json:"type" is:"enum=ClusterSetIP|Headless"`
		SessionAffinity       string          `json:"sessionAffinity" is:"enum=ClientIP|None"`
		SessionAffinityConfig *affinityConfig `json:"sessionAffinityConfig"`
		IPFamilies            []string        `json:"ipFamilies" is:"enum=IPv4|IPv6"`
		InternalTrafficPolicy *string         `json:"internalTrafficPolicy" is:"enum=Cluster|Local"`
		TrafficDistribution   *string         `json:"trafficDistribution"`
	} `json:"spec"`
	Status anything `json:"status"`
}
