//house:exempt a table: the fields of adopted kinds

package manifest

// The shapes of the Gateway API: the fields of sigs.k8s.io/gateway-api v1.6, the
// experimental channel included, with the API's own bounds in the tags.

type routeParents struct {
	ParentRefs         []parentRef `json:"parentRefs" is:"items=0..32"`
	UseDefaultGateways string      `json:"useDefaultGateways" is:"enum=All|None"`
}

type parentRef struct {
	Group       *string `json:"group" is:"group"`
	Kind        *string `json:"kind" is:"kind"`
	Namespace   *string `json:"namespace" is:"label"`
	Name        string  `json:"name" is:"required len=1..253"`
	SectionName *string `json:"sectionName" is:"subdomain"`
	Port        *int32  `json:"port" is:"1..65535"`
}

type objectReference struct {
	Group     *string `json:"group" is:"group"`
	Kind      *string `json:"kind" is:"kind"`
	Name      string  `json:"name" is:"required len=1..253"`
	Namespace *string `json:"namespace" is:"label"`
}

type localReference struct {
	Group string `json:"group" is:"required group"`
	Kind  string `json:"kind" is:"required kind"`
	Name  string `json:"name" is:"required len=1..253"`
}

type backendObjectRef struct {
	objectReference `json:",inline"`
	Port            *int32 `json:"port" is:"1..65535"`
}

type backendRef struct {
	backendObjectRef `json:",inline"`
	Weight           *int32 `json:"weight" is:"0..1000000"`
}

type filteredBackendRef struct {
	backendRef `json:",inline"`
	Filters    []httpFilter `json:"filters" is:"items=0..16"`
}

type httpRoute struct {
	header `json:",inline"`
	Spec   httpRouteSpec `json:"spec" is:"required"`
	Status anything      `json:"status"`
}

type httpRouteSpec struct {
	routeParents `json:",inline"`
	Hostnames    []string   `json:"hostnames" is:"hostname items=0..16"`
	Rules        []httpRule `json:"rules" is:"items=1..16 unique=name"`
}

type httpRule struct {
	Name               *string              `json:"name" is:"subdomain"`
	Matches            []httpMatch          `json:"matches" is:"items=0..64"`
	Filters            []httpFilter         `json:"filters" is:"items=0..16"`
	BackendRefs        []filteredBackendRef `json:"backendRefs" is:"items=0..16"`
	Timeouts           *httpTimeouts        `json:"timeouts"`
	Retry              *httpRetry           `json:"retry"`
	SessionPersistence *sessionPersistence  `json:"sessionPersistence"`
}

type httpTimeouts struct {
	Request        *string `json:"request" is:"duration"`
	BackendRequest *string `json:"backendRequest" is:"duration"`
}

type httpRetry struct {
	Codes    []int   `json:"codes" is:"400..599"`
	Attempts *int    `json:"attempts" is:"1..100"`
	Backoff  *string `json:"backoff" is:"duration"`
}

type httpMatch struct {
	Path        *pathMatch   `json:"path"`
	Headers     []valueMatch `json:"headers" is:"items=0..16 unlike=name"`
	QueryParams []valueMatch `json:"queryParams" is:"items=0..16 unique=name"`
	Method      *string      `json:"method" is:"enum=GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH"`
}

type pathMatch struct {
	Type  *string `json:"type" is:"enum=Exact|PathPrefix|RegularExpression"`
	Value *string `json:"value" is:"len=0..1024"`
}

type valueMatch struct {
	// How the value is compared. Default: Exact.
	Type *string `json:"type" is:"enum=Exact|RegularExpression"`
	// Name of the header, in any case.
	Name string `json:"name" is:"required headername"`
	// The value, or an expression (RE2 syntax) for the whole of it.
	Value string `json:"value" is:"required len=1..4096"`
}

// httpFilter serves HTTPRoute and GRPCRoute, which knows a part of it.
type httpFilter struct {
	Type                   string          `json:"type" is:"required enum=RequestHeaderModifier|ResponseHeaderModifier|RequestMirror|RequestRedirect|URLRewrite|ExtensionRef|CORS|ExternalAuth"`
	RequestHeaderModifier  *headerModifier `json:"requestHeaderModifier"`
	ResponseHeaderModifier *headerModifier `json:"responseHeaderModifier"`
	RequestMirror          *mirrorFilter   `json:"requestMirror"`
	RequestRedirect        *redirectFilter `json:"requestRedirect"`
	URLRewrite             *rewriteFilter  `json:"urlRewrite"`
	CORS                   *corsFilter     `json:"cors"`
	ExternalAuth           *anything       `json:"externalAuth"`
	ExtensionRef           *localReference `json:"extensionRef"`
}

type corsFilter struct {
	AllowOrigins     []string `json:"allowOrigins" is:"items=0..64 len=1..253 unique=."`
	AllowCredentials *bool    `json:"allowCredentials"`
	AllowMethods     []string `json:"allowMethods" is:"items=0..9 enum=GET|HEAD|POST|PUT|DELETE|CONNECT|OPTIONS|TRACE|PATCH|* unique=."`
	AllowHeaders     []string `json:"allowHeaders" is:"items=0..64 headername unique=."`
	ExposeHeaders    []string `json:"exposeHeaders" is:"items=0..64 headername unique=."`
	MaxAge           int32    `json:"maxAge" is:"1..2147483647"`
}

type headerModifier struct {
	Set    []headerValue `json:"set" is:"items=0..16 unlike=name"`
	Add    []headerValue `json:"add" is:"items=0..16 unlike=name"`
	Remove []string      `json:"remove" is:"items=0..16 headername unlike=."`
}

type headerValue struct {
	Name  string `json:"name" is:"required headername"`
	Value string `json:"value" is:"required len=1..4096"`
}

type mirrorFilter struct {
	BackendRef backendObjectRef `json:"backendRef" is:"required"`
	Percent    *int32           `json:"percent" is:"0..100"`
	Fraction   *fraction        `json:"fraction"`
}

type fraction struct {
	Numerator   int32  `json:"numerator" is:"required 0..2147483647"`
	Denominator *int32 `json:"denominator" is:"1..2147483647"`
}

type redirectFilter struct {
	Scheme     *string       `json:"scheme" is:"enum=http|https"`
	Hostname   *string       `json:"hostname" is:"host"`
	Path       *pathModifier `json:"path"`
	Port       *int32        `json:"port" is:"1..65535"`
	StatusCode *int          `json:"statusCode" is:"301..308"`
}

type rewriteFilter struct {
	Hostname *string       `json:"hostname" is:"host"`
	Path     *pathModifier `json:"path"`
}

type pathModifier struct {
	Type               string  `json:"type" is:"required enum=ReplaceFullPath|ReplacePrefixMatch"`
	ReplaceFullPath    *string `json:"replaceFullPath" is:"len=0..1024"`
	ReplacePrefixMatch *string `json:"replacePrefixMatch" is:"len=0..1024"`
}

// sessionPersistence is that of rules too, where it takes the place of a policy's (GEP-1619).
type sessionPersistence struct {
	// Name of the cookie or header. Default: isthmus-session for a cookie, x-isthmus-session for a header.
	SessionName *string `json:"sessionName" is:"len=1..128"`
	// Ends a session so long after it began, and the next request begins another. Default: never.
	AbsoluteTimeout *string `json:"absoluteTimeout" is:"duration"`
	// Cookie for browsers; Header for clients that send back what the answer's header said. Default: Cookie.
	Type *string `json:"type" is:"enum=Cookie|Header"`
	// With type Cookie.
	CookieConfig *struct {
		// Session ends with the browser's session; Permanent lasts for absoluteTimeout, which it requires. Default: Session.
		LifetimeType *string `json:"lifetimeType" is:"enum=Permanent|Session"`
	} `json:"cookieConfig"`
}

type grpcRoute struct {
	header `json:",inline"`
	Spec   struct {
		routeParents `json:",inline"`
		Hostnames    []string   `json:"hostnames" is:"hostname items=0..16"`
		Rules        []grpcRule `json:"rules" is:"items=0..16 unique=name"`
	} `json:"spec" is:"required"`
	Status anything `json:"status"`
}

type grpcRule struct {
	Name               *string             `json:"name" is:"subdomain"`
	Matches            []grpcMatch         `json:"matches" is:"items=0..64"`
	Filters            []grpcFilter        `json:"filters" is:"items=0..16"`
	BackendRefs        []grpcBackendRef    `json:"backendRefs" is:"items=0..16"`
	SessionPersistence *sessionPersistence `json:"sessionPersistence"`
}

type grpcMatch struct {
	Method  *methodMatch `json:"method"`
	Headers []valueMatch `json:"headers" is:"items=0..16 unlike=name"`
}

type methodMatch struct {
	Type    *string `json:"type" is:"enum=Exact|RegularExpression"`
	Service *string `json:"service" is:"len=0..1024"`
	Method  *string `json:"method" is:"len=0..1024"`
}

type grpcFilter struct {
	Type                   string          `json:"type" is:"required enum=ResponseHeaderModifier|RequestHeaderModifier|RequestMirror|ExtensionRef"`
	RequestHeaderModifier  *headerModifier `json:"requestHeaderModifier"`
	ResponseHeaderModifier *headerModifier `json:"responseHeaderModifier"`
	RequestMirror          *mirrorFilter   `json:"requestMirror"`
	ExtensionRef           *localReference `json:"extensionRef"`
}

type grpcBackendRef struct {
	backendRef `json:",inline"`
	Filters    []grpcFilter `json:"filters" is:"items=0..16"`
}

type tlsRoute struct {
	header `json:",inline"`
	Spec   struct {
		routeParents `json:",inline"`
		Hostnames    []string     `json:"hostnames" is:"hostname items=1..1024"`
		Rules        []streamRule `json:"rules" is:"required items=1..1"`
	} `json:"spec" is:"required"`
	Status anything `json:"status"`
}

// bareRoute is TCPRoute and UDPRoute.
type bareRoute struct {
	header `json:",inline"`
	Spec   struct {
		routeParents `json:",inline"`
		Rules        []streamRule `json:"rules" is:"required items=1..1"`
	} `json:"spec" is:"required"`
	Status anything `json:"status"`
}

type streamRule struct {
	Name        *string      `json:"name" is:"subdomain"`
	BackendRefs []backendRef `json:"backendRefs" is:"required items=1..16"`
}

type referenceGrant struct {
	header `json:",inline"`
	Spec   struct {
		From []struct {
			Group     string `json:"group" is:"required group"`
			Kind      string `json:"kind" is:"required kind"`
			Namespace string `json:"namespace" is:"required label"`
		} `json:"from" is:"required items=1..16"`
		To []struct {
			Group string  `json:"group" is:"required group"`
			Kind  string  `json:"kind" is:"required kind"`
			Name  *string `json:"name" is:"len=1..253"`
		} `json:"to" is:"required items=1..16"`
	} `json:"spec" is:"required"`
	Status anything `json:"status"`
}

type gateway struct {
	header `json:",inline"`
	Spec   struct {
		GatewayClassName string     `json:"gatewayClassName" is:"required len=1..253"`
		Listeners        []listener `json:"listeners" is:"items=1..64 unique=name"`
		Addresses        []struct {
			Type  *string `json:"type" is:"len=1..253"`
			Value string  `json:"value" is:"len=0..253"`
		} `json:"addresses" is:"items=0..16"`
		Infrastructure *struct {
			Labels        map[string]string `json:"labels"`
			Annotations   map[string]string `json:"annotations"`
			ParametersRef *localReference   `json:"parametersRef"`
		} `json:"infrastructure"`
		AllowedListeners *struct {
			Namespaces *namespacesFrom `json:"namespaces"`
		} `json:"allowedListeners"`
		TLS          *anything `json:"tls"`
		DefaultScope string    `json:"defaultScope" is:"enum=All|None"`
	} `json:"spec" is:"required"`
	Status anything `json:"status"`
}

type listener struct {
	Name     string  `json:"name" is:"required subdomain"`
	Hostname *string `json:"hostname" is:"hostname"`
	Port     int32   `json:"port" is:"required 1..65535"`
	Protocol string  `json:"protocol" is:"required len=1..255"`
	TLS      *struct {
		Mode            *string           `json:"mode" is:"enum=Terminate|Passthrough"`
		CertificateRefs []objectReference `json:"certificateRefs" is:"items=0..64"`
		Options         map[string]string `json:"options"`
	} `json:"tls"`
	AllowedRoutes *struct {
		Namespaces *namespacesFrom `json:"namespaces"`
		Kinds      []struct {
			Group *string `json:"group" is:"group"`
			Kind  string  `json:"kind" is:"required kind"`
		} `json:"kinds" is:"items=0..8"`
	} `json:"allowedRoutes"`
}

type namespacesFrom struct {
	From     *string `json:"from" is:"enum=All|Selector|Same|None"`
	Selector *struct {
		MatchLabels      map[string]string `json:"matchLabels"`
		MatchExpressions []struct {
			Key      string   `json:"key" is:"required"`
			Operator string   `json:"operator" is:"required enum=In|NotIn|Exists|DoesNotExist"`
			Values   []string `json:"values"`
		} `json:"matchExpressions"`
	} `json:"selector"`
}

type backendTLSPolicy struct {
	header `json:",inline"`
	Spec   struct {
		TargetRefs []struct {
			localReference `json:",inline"`
			SectionName    *string `json:"sectionName" is:"subdomain"`
		} `json:"targetRefs" is:"required items=1..16"`
		Validation struct {
			CACertificateRefs       []localReference `json:"caCertificateRefs" is:"items=0..8"`
			WellKnownCACertificates *string          `json:"wellKnownCACertificates" is:"len=1..253"`
			Hostname                string           `json:"hostname" is:"required host"`
			SubjectAltNames         []struct {
				Type     string `json:"type" is:"required enum=Hostname|URI"`
				Hostname string `json:"hostname" is:"hostname"`
				URI      string `json:"uri" is:"len=1..253"`
			} `json:"subjectAltNames" is:"items=0..5"`
		} `json:"validation" is:"required"`
		Options map[string]string `json:"options"`
	} `json:"spec" is:"required"`
	Status anything `json:"status"`
}
