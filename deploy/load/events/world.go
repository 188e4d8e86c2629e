package events

import (
	"fmt"
	"math"
	"strconv"
)

// What the history is made of. The numbers do not change with its size, so that two histories of
// different sizes differ in their volume alone; a small one does not reach all of them.
const (
	Providers  = 60
	Sources    = 40
	Tenants    = 200
	Jobs       = 5000
	Recipients = 20_000_000
	Domains    = 200_000
	Templates  = Providers * basesOfProvider // 3000
)

// Which sources a pool has, by their places: those of bulk mail, of transactional mail and those
// that are warmed up.
const (
	bulkSources   = 26
	urgentSources = 8
	warmSources   = 6
)

// providers names them, the largest first: those that carom knows by their MX hosts and some that it
// would name by a registrable domain.
var providers = [Providers]string{
	"google", "office365", "outlook", "yahoo", "apple", "gmx", "orange", "t-online", "comcast", "mailru",
	"yandex", "qq", "netease", "libero", "wp", "onet", "seznam", "free", "sfr", "laposte",
	"charter", "cox", "ionos", "ovh", "godaddy", "zoho", "proton", "fastmail", "proofpoint", "mimecast",
	"barracuda", "cisco", "symantec", "alder-mail.example", "birch-mail.example", "cedar-mail.example", "dogwood-mail.example", "elm-mail.example",
	"fir-mail.example", "ginkgo-mail.example", "hazel-mail.example", "ivy-mail.example", "juniper-mail.example", "larch-mail.example", "maple-mail.example",
	"nutmeg-mail.example", "oak-mail.example", "pine-mail.example", "quince-mail.example", "rowan-mail.example", "spruce-mail.example", "teak-mail.example",
	"ulmus-mail.example", "viburnum-mail.example", "willow-mail.example", "yew-mail.example", "zelkova-mail.example", "aspen-mail.example",
	"beech-mail.example", "cypress-mail.example",
}

// mxDomain is the domain of a provider's hosts. It has no digits: a reply template would lose them.
func mxDomain(provider int) string {
	name := providers[provider]
	if name == "office365" {
		name = "office"
	}
	if name == "netease" || len(name) < 8 || name[len(name)-8:] != ".example" {
		name += "-mx.example"
	}
	return name
}

// A consumer is a domain with many mailboxes.
type consumer struct {
	domain   string
	provider int
	weight   int // of all consumers' recipients, in thousandths; together 1000
}

// consumers are the domains of 7 recipients in 10. The names are reserved ones (RFC 6761): a
// history must not name people's real domains.
var consumers = func() []consumer {
	weights := []int{ // of the largest first, roughly what a European and American list looks like
		420, 90, 80, 70, 40, 35, 30, 25, 22, 20, 18, 15, 14, 12, 10, 9, 8, 7, 6, 6,
		5, 5, 5, 4, 4, 4, 3, 3, 3, 3, 3, 3, 3, 3, 2, 2, 2, 2, 2, 2,
	}
	providerOf := []int{ // by place: some providers have several domains
		0, 2, 3, 2, 4, 5, 3, 6, 7, 5, 8, 9, 10, 2, 11, 12, 13, 14, 15, 16,
		17, 18, 19, 20, 21, 3, 26, 27, 6, 17, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42,
	}
	all := make([]consumer, len(weights))
	for i := range all {
		all[i] = consumer{fmt.Sprintf("%s-%c.example", providers[providerOf[i]], 'a'+rune(i%26)), providerOf[i], weights[i]}
	}
	return all
}()

// slots returns a thousand places in which each number has as many as its weight.
func slots(weights []int) []int {
	all := make([]int, 0, 1000)
	for i, w := range weights {
		for range w {
			all = append(all, i)
		}
	}
	return all
}

// hosters says who hosts the domains of the other recipients: Microsoft and Google most of them,
// every provider some.
func hosters() []int {
	weights := make([]int, Providers)
	left := 1000
	for i := range weights {
		weights[i] = 7
		left -= 7
	}
	weights[1] += left * 3 / 5 // office365
	weights[0] += left - left*3/5
	return slots(weights)
}

var firstNames = []string{
	"anna", "ben", "carla", "dario", "eva", "felix", "greta", "hugo", "ines", "jonas", "karin", "luis", "maria", "nils", "olga", "paul",
	"rita", "sven", "tina", "ugo", "vera", "willem", "xenia", "yann", "zoe", "adam", "bea", "colin", "dora", "emil", "flora", "gustav",
}

var lastNames = []string{
	"adler", "berg", "costa", "duval", "ek", "fischer", "garcia", "holm", "ivanov", "jansen", "keller", "lund", "moreau", "novak", "ortiz", "petit",
	"quinn", "rossi", "silva", "toth", "ulrich", "vogel", "weber", "xu", "young", "zeman", "abel", "bruno", "cerny", "dupont", "ericson", "fuchs",
}

// tenantWords and tenantThings make the names of tenants.
var (
	tenantWords  = []string{"north", "south", "green", "silver", "river", "stone", "bright", "clear", "urban", "alpine", "baltic", "cedar", "delta", "ember", "fjord", "grand"}
	tenantThings = []string{"works", "trade", "school", "clinic", "garden", "studio", "motors", "foods", "travel", "press", "design", "energy", "sports"}
)

// tlsVersions and their ciphers, the usual first.
var (
	tlsVersions = []string{"TLS 1.3", "TLS 1.2"}
	tlsCiphers  = []string{"TLS_AES_256_GCM_SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"}
)

// words returns the lists that the SQL looks words up in, each from place 1. Place 0 stands for no word.
func words() map[string][]string {
	lists := map[string][]string{
		"provider": providers[:], "first-name": firstNames, "last-name": lastNames,
		"tls-version": tlsVersions, "tls-cipher": tlsCiphers,
		"scope-limiting": {"queue", "source-ip", "vmta", "mx", "lease"}, "actor": {"config", "loop", "guard"},
		"feedback": {"abuse", "abuse", "abuse", "opt-out", "not-spam"},
		"pool":     {"bulk", "transactional", "warm-up"},
	}
	add := func(list string, n int, word func(int) string) {
		for i := range n {
			lists[list] = append(lists[list], word(i))
		}
	}
	add("mx", Providers, func(i int) string { return "mx." + mxDomain(i) })
	add("mx-ip", Providers*4, func(i int) string { return fmt.Sprintf("::ffff:198.18.%d.%d", i/4, 10+i%4) })
	add("esmtp", Providers, func(i int) string {
		return "PIPELINING,SIZE,8BITMIME,STARTTLS,ENHANCEDSTATUSCODES" + []string{"", ",CHUNKING", ",CHUNKING,SMTPUTF8", ",DSN,SMTPUTF8"}[i%4]
	})
	add("source", Sources, func(i int) string { return fmt.Sprintf("192.0.2.%d", 10+i) })
	add("source-ip", Sources, func(i int) string { return fmt.Sprintf("::ffff:192.0.2.%d", 10+i) })
	add("vmta", Sources, func(i int) string { return fmt.Sprintf("mta-%02d", i+1) })
	add("ehlo", Sources, func(i int) string { return fmt.Sprintf("mta-%02d.sender.example", i+1) })
	add("tenant", Tenants, tenantName)
	add("sender", Tenants, func(i int) string { return "news." + tenantName(i) + ".example" })
	add("client-ip", Tenants, func(i int) string { return fmt.Sprintf("::ffff:203.0.113.%d", 1+i) })
	weights := make([]int, len(consumers))
	for i, c := range consumers {
		lists["consumer"] = append(lists["consumer"], c.domain)
		lists["consumer-provider"] = append(lists["consumer-provider"], strconv.Itoa(c.provider))
		weights[i] = c.weight
	}
	for _, i := range slots(weights) {
		lists["consumer-slot"] = append(lists["consumer-slot"], strconv.Itoa(i))
	}
	for _, i := range hosters() {
		lists["hoster-slot"] = append(lists["hoster-slot"], strconv.Itoa(i))
	}
	return lists
}

// tenantName is one of 16 words and one of 13 things: no two of 200 are the same.
func tenantName(i int) string {
	return tenantWords[i%len(tenantWords)] + "-" + tenantThings[i/len(tenantWords)]
}

// weekday is how much mail a day has beside the mean, from Sunday on.
var weekday = [7]float64{0.62, 1.08, 1.22, 1.20, 1.18, 1.06, 0.64}

// shares divides n things by weights; the sum is exactly n.
func shares(n uint64, weights []float64) []uint64 {
	sum := 0.0
	for _, w := range weights {
		sum += w
	}
	all := make([]uint64, len(weights))
	done, given := 0.0, uint64(0)
	for i, w := range weights {
		done += w
		upTo := uint64(math.Round(float64(n) * done / sum))
		all[i], given = upTo-given, upTo
	}
	return all
}
