// Package reputation says how a receiver takes what somebody sends: a score from 0 to 100, its band, how
// sure it is and what it comes from (design: complaints, unknown users, blocks, refusals).
//
// The score is a weighted geometric mean, so that one disaster is not averaged away. Each component is a
// share of cases, shrunk towards what is usual at the provider, because few numbers prove little.
// Query sums the cases and answers in ClickHouse, over roll-ups, so that its cost follows keys and hours and
// not mail; Scores makes scores of the sums, and Score recomputes one from its numbers. A test holds the
// formula together with the same in SQL.
//
// Nothing here touches the network or the clock. A score caps nothing: the control loop follows the
// receiver's own refusals, which are immediate. A Policy that does not change is safe for concurrent use.
package reputation
