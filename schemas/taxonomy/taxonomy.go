// Package taxonomy holds the words with which carom names what receivers say: categories with
// their group and class, dimensions, scopes, and PowerMTA's category words.
//
// It is data and look-ups; the rules that arrive at a category are in ingest/classify.
// Everything is safe for concurrent use.
package taxonomy

// Class says what a category means for the address.
type Class string

// The classes. Hard means that the address should not be mailed again; with Undetermined the
// category alone does not decide; None is no bounce.
const (
	Hard         Class = "hard"
	Soft         Class = "soft"
	Undetermined Class = "undetermined"
	None         Class = "none"
)

// Dimension says what a reply is about, and so which actuator answers it.
type Dimension string

// The dimensions (the control loop's formulas write them OK, RATE, CONN, MSGC, BLOCK, GREY, UNAV,
// USER, CONTENT, AUTH and OTHER).
const (
	OK          Dimension = "ok"
	Rate        Dimension = "rate"
	Connections Dimension = "connections"
	Messages    Dimension = "messages" // messages per connection
	Block       Dimension = "block"
	Greylist    Dimension = "greylist"
	Unavailable Dimension = "unavailable"
	User        Dimension = "user"
	Content     Dimension = "content"
	Auth        Dimension = "auth"
	Other       Dimension = "other"
)

// Dimensions lists every dimension in the order of the warehouse's enumeration.
var Dimensions = []Dimension{OK, Rate, Connections, Messages, Block, Greylist, Unavailable, User, Content, Auth, Other}

// Scope says whom a refusal is aimed at.
type Scope string

// The scopes. ScopeNone is a reply that names nobody: the (provider, source) key takes it.
const (
	ScopeNone      Scope = ""
	ScopeRecipient Scope = "recipient"
	ScopeDomain    Scope = "domain" // a tenant's DKIM, SPF or From domain
	ScopeURL       Scope = "url"
	ScopeSource    Scope = "source" // the source IP
	ScopeProvider  Scope = "provider"
)

// Category is one of the 30 words for what became of a recipient.
type Category string

// The categories.
const (
	BadMailbox       Category = "bad-mailbox"
	InactiveMailbox  Category = "inactive-mailbox"
	Moved            Category = "moved"
	RecipientRefused Category = "recipient-refused"
	BadDomain        Category = "bad-domain"
	MailboxFull      Category = "mailbox-full"
	MessageTooBig    Category = "message-too-big"
	RateLimited      Category = "rate-limited"
	Greylisted       Category = "greylisted"
	SpamBlock        Category = "spam-block"
	SpamContent      Category = "spam-content"
	Policy           Category = "policy"
	AuthFailed       Category = "auth-failed"
	TLSRequired      Category = "tls-required"
	Virus            Category = "virus"
	BadContent       Category = "content"
	InvalidSender    Category = "invalid-sender"
	RelayDenied      Category = "relay-denied"
	Routing          Category = "routing"
	DNSFailure       Category = "dns-failure"
	Connection       Category = "connection"
	Expired          Category = "expired"
	HeldExpired      Category = "held-expired" // while the control loop kept it back: nobody refused it
	Protocol         Category = "protocol"
	System           Category = "system"
	Suppressed       Category = "suppressed"
	Complaint        Category = "complaint"
	AutoReply        Category = "auto-reply"
	Delivered        Category = "delivered"
	Unknown          Category = "undetermined"
)

type entry struct {
	group string
	class Class
	pmta  string
}

// categories gives each category its group, its class and PowerMTA's word (User's Guide 5.0
// section 11.6). Words that PowerMTA lacks map to the word its shipped patterns would give.
var categories = map[Category]entry{
	BadMailbox:       {"recipient", Hard, "bad-mailbox"},
	InactiveMailbox:  {"recipient", Undetermined, "inactive-mailbox"},
	Moved:            {"recipient", Hard, "bad-mailbox"},
	RecipientRefused: {"recipient", Undetermined, "policy-related"},
	BadDomain:        {"domain", Hard, "bad-domain"},
	MailboxFull:      {"quota", Soft, "quota-issues"},
	MessageTooBig:    {"message", Soft, "content-related"},
	RateLimited:      {"throttle", Soft, "policy-related"},
	Greylisted:       {"throttle", Soft, "policy-related"},
	SpamBlock:        {"reputation", Soft, "spam-related"},
	SpamContent:      {"reputation", Soft, "spam-related"},
	Policy:           {"policy", Soft, "policy-related"},
	AuthFailed:       {"auth", Soft, "policy-related"},
	TLSRequired:      {"auth", Soft, "policy-related"},
	Virus:            {"message", Soft, "virus-related"},
	BadContent:       {"message", Soft, "content-related"},
	InvalidSender:    {"sender", Soft, "invalid-sender"},
	RelayDenied:      {"routing", Soft, "relaying-issues"},
	Routing:          {"routing", Soft, "routing-errors"},
	DNSFailure:       {"network", Soft, "routing-errors"},
	Connection:       {"network", Soft, "no-answer-from-host"},
	Expired:          {"network", Soft, "message-expired"},
	HeldExpired:      {"sender-side", None, "message-expired"},
	Protocol:         {"protocol", Soft, "protocol-errors"},
	System:           {"system", Soft, "bad-configuration"},
	Suppressed:       {"sender-side", Hard, "policy-related"},
	Complaint:        {"feedback", None, "other"},
	AutoReply:        {"notice", None, "other"},
	Delivered:        {"notice", None, "success"},
	Unknown:          {"undetermined", Undetermined, "other"},
}

// Known reports whether c is one of the categories.
func (c Category) Known() bool { _, ok := categories[c]; return ok }

// Group returns the group of c, or "" for a word that is no category.
func (c Category) Group() string { return categories[c].group }

// Class returns the class of c; a word that is no category is Undetermined.
func (c Category) Class() Class {
	if e, ok := categories[c]; ok {
		return e.class
	}
	return Undetermined
}

// PowerMTA returns PowerMTA's word for c, as the accounting file's bounceCat writes it.
func (c Category) PowerMTA() string {
	if e, ok := categories[c]; ok {
		return e.pmta
	}
	return "other"
}

// Categories returns every category; the order is not defined.
func Categories() []Category {
	all := make([]Category, 0, len(categories))
	for c := range categories {
		all = append(all, c)
	}
	return all
}
