/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the data plane and user space agree on: limits, enums, the layout of maps. What knocks have is in abi_knock.h.
 *
 * cffi reads the part between the two marks as it stands: plain structs, enums, explicit padding, no
 * preprocessor. Everything is in host byte order unless its name ends in _be.
 */
#ifndef XDPFW_ABI_H
#define XDPFW_ABI_H

#include <linux/types.h>

/* cffi: begin */

enum xdpfw_limit {
	XDPFW_MAX_VLAN_TAGS = 4,
	XDPFW_MAX_EXTENSION_HEADERS = 8,
	XDPFW_MAX_INTERFACES = 64,
	XDPFW_INTERFACE_SLOTS = 256,
	XDPFW_MAX_GROUPS = 8,
	XDPFW_MAX_ROW_ENTRIES = 64,
	XDPFW_MAX_WIDE_WORDS = 64,
	XDPFW_MAX_COUNT_WORDS = 8,
	XDPFW_MAX_TABLE_BYTES = 256 << 20,	/* of the rules, and of sets with files */
	XDPFW_WORD_BITS = 64,		/* of the bit vectors */
	XDPFW_MAX_KNOCKS = 64,
	XDPFW_MAX_SEQUENCES = 32,	/* each close is one, too */
	XDPFW_MAX_STEPS = 16,
	XDPFW_MAX_SERVICES = 16,	/* that a knock opens */
	XDPFW_MAX_OPENERS = 8,		/* knocks that open the same port */
	XDPFW_MAX_ROTATIONS = 8,
	XDPFW_MAX_KNOCKED = 8,		/* knocks that rules ask for */
	XDPFW_MAX_DYNAMIC_SETS = 16,	/* the bans among them */
	XDPFW_MAX_ASKED_SETS = 8,	/* dynamic sets that rules ask for, of each direction */
	XDPFW_MAX_SPA_KEYS = 4096,
	XDPFW_MAX_GRANTS = 65536,
	XDPFW_MAX_UNSIGNED_GRANTS = 49152,	/* entries of sequences: who knows one must not fill it up for SPA */
	XDPFW_BEGINNING_BUCKETS = 1 << 18,	/* see struct xdpfw_beginnings */
	XDPFW_PROGRESS_BUCKETS = 1 << 16,	/* see struct xdpfw_progress */
	XDPFW_TEST_BUCKETS = 1 << 10,		/* of both, in test runs */
	XDPFW_BUCKET_SLOTS = 8,
	XDPFW_MARKER_SLOTS = 1 << 16,	/* see struct xdpfw_markers */
	XDPFW_SPA_FAILURE_SLOTS = 4096,
	XDPFW_REMINDER_SLOTS = 1 << 12,	/* of neighbours that packets are routed to */
	XDPFW_EVENT_SLOTS = 16384,
	XDPFW_EVENTS_PER_SECOND = 100,	/* of each kind; more are only counted */
};

/* Sizes of what the tables are made of; see struct xdpfw_config. */
enum xdpfw_layout {
	XDPFW_BLOCK_BYTES = 64,		/* a cache line */
	XDPFW_BLOCK_ENTRIES = 4,	/* struct xdpfw_entry */
	XDPFW_ROOT_BITS = 16,		/* of an address, a trie's root resolves */
};

enum xdpfw_family {
	XDPFW_FAMILY_OTHER = 0,
	XDPFW_FAMILY_IPV4 = 1,
	XDPFW_FAMILY_IPV6 = 2,
};

enum xdpfw_fragment {
	XDPFW_FRAGMENT_NONE = 0,
	XDPFW_FRAGMENT_FIRST = 1,
	XDPFW_FRAGMENT_LATER = 2,
};

/* FIELD_KIND: family | fragment << 2 | options << 4 */
enum xdpfw_kind {
	XDPFW_KIND_FRAGMENT_SHIFT = 2,
	XDPFW_KIND_OPTIONS_SHIFT = 4,
	XDPFW_KIND_COUNT = 32,
};

/*
 * The fields that rules look at, addresses apart, in the order in which they are combined. Each has a small range
 * of values; the last value of some means that the packet has no such field.
 */
enum xdpfw_field {
	XDPFW_FIELD_PROTO,
	XDPFW_FIELD_DPORT,
	XDPFW_FIELD_SPORT,
	XDPFW_FIELD_KIND,
	XDPFW_FIELD_DETAIL,
	XDPFW_FIELD_INTERFACE,
	XDPFW_FIELD_ETHERTYPE,
	XDPFW_FIELD_VLAN,
	XDPFW_FIELD_INNER_VLAN,
	XDPFW_FIELD_LENGTH,
	XDPFW_FIELD_TTL,
	XDPFW_FIELD_DSCP,
	XDPFW_FIELD_SRC_MAC,
	XDPFW_FIELD_DST_MAC,
	XDPFW_FIELD_KNOCKED,		/* bit i: the source holds a grant of config.knocked[i] */
	XDPFW_FIELD_STATE,		/* enum xdpfw_packet_state */
	XDPFW_FIELD_SRC_SETS,		/* bit i: the source is in the dynamic set config.asked_sets[i] */
	XDPFW_FIELD_DST_SETS,		/* bit i: the destination is in config.asked_sets[MAX_ASKED_SETS + i] */
	XDPFW_FIELD_COUNT,
};

/* Values that stand for "this packet has no such field"; each is the largest of its field. */
enum xdpfw_absent {
	XDPFW_NO_INTERFACE = XDPFW_MAX_INTERFACES,
	XDPFW_NO_TAG = 4096,
	XDPFW_NO_PROTO = 256,
	XDPFW_NO_PORT = 65536,
	XDPFW_NO_DETAIL = 131328,
	XDPFW_NO_LENGTH = 65576,
	XDPFW_NO_TTL = 256,
	XDPFW_NO_DSCP = 64,
};

/* FIELD_STATE: of whole datagrams and first fragments of IP; the last says that there is none. */
enum xdpfw_packet_state {
	XDPFW_PACKET_STATE_NEW = 0,
	XDPFW_PACKET_STATE_ESTABLISHED = 1,
	XDPFW_PACKET_STATE_NONE = 2,
};

/* FIELD_DETAIL: TCP flags 0-255, then (type << 8 | code) of ICMP, then that of ICMPv6. */
enum xdpfw_detail {
	XDPFW_DETAIL_TCP = 0,
	XDPFW_DETAIL_ICMP = 256,
	XDPFW_DETAIL_ICMPV6 = 65792,
};

/* A MAC address is classified in three 16-bit parts, the first on the wire first. */
enum xdpfw_mac {
	XDPFW_MAC_SRC = 0,
	XDPFW_MAC_DST = 1,
	XDPFW_MAC_COUNT = 2,
	XDPFW_MAC_PARTS = 3,
};

enum xdpfw_direction {
	XDPFW_DIRECTION_SRC = 0,
	XDPFW_DIRECTION_DST = 1,
	XDPFW_DIRECTION_COUNT = 2,
};

enum xdpfw_verdict {
	XDPFW_VERDICT_DROP = 0,
	XDPFW_VERDICT_PASS = 1,
	XDPFW_VERDICT_TX = 2,
	XDPFW_VERDICT_REDIRECT = 3,
	XDPFW_VERDICT_COUNT = 4,
};

/* Why a packet got its verdict. REASON_RULE has no counter of its own: the rule's is it. */
enum xdpfw_reason {
	XDPFW_REASON_RULE,
	XDPFW_REASON_DEFAULT,
	XDPFW_REASON_ALLOW_ARP,
	XDPFW_REASON_ALLOW_NDP,
	XDPFW_REASON_ALLOW_DHCP,
	XDPFW_REASON_ALLOW_ICMP_ERRORS,
	XDPFW_REASON_ALLOW_ESTABLISHED,
	XDPFW_REASON_ALLOW_FRAGMENTS,		/* a later fragment of a datagram whose first one passed */
	XDPFW_REASON_BAN,			/* the source is banned */
	XDPFW_REASON_PROTECT_SYN_COOKIE,	/* a SYN that would pass, answered with a cookie */
	XDPFW_REASON_PROTECT_BAD_COOKIE,	/* a packet that would pass, of no connection and with no cookie */
	XDPFW_REASON_KNOCK_STEP,		/* to a step of a sequence, right or wrong */
	XDPFW_REASON_KNOCK_GRANTED,		/* to a port that a knock opens, and the source holds a grant */
	XDPFW_REASON_KNOCK_CLOSED,		/* and it holds none */
	XDPFW_REASON_KNOCK_SPA_ACCEPTED,
	XDPFW_REASON_KNOCK_SPA_MALFORMED,	/* length, version, flags or a fragment */
	XDPFW_REASON_KNOCK_SPA_UNKNOWN_KEY,
	XDPFW_REASON_KNOCK_SPA_REPLAYED,	/* not later than the last that was accepted */
	XDPFW_REASON_KNOCK_SPA_STALE,		/* before the window */
	XDPFW_REASON_KNOCK_SPA_EARLY,		/* behind it */
	XDPFW_REASON_KNOCK_SPA_SOURCE,		/* made for another source */
	XDPFW_REASON_KNOCK_SPA_FORGED,		/* wrong tag */
	XDPFW_REASON_KNOCK_SPA_SERVICE,		/* right, but the knock opens no such service */
	XDPFW_REASON_KNOCK_SPA_REFUSED,		/* right, but the map of grants is full */
	XDPFW_REASON_INVALID_ETHERNET,		/* header or tag cut short */
	XDPFW_REASON_INVALID_VLAN_TAGS,		/* more than MAX_VLAN_TAGS */
	XDPFW_REASON_INVALID_IPV4_HEADER,	/* cut short */
	XDPFW_REASON_INVALID_IPV4_VERSION,
	XDPFW_REASON_INVALID_IPV4_IHL,		/* below 5, or beyond the total length */
	XDPFW_REASON_INVALID_IPV4_LENGTH,	/* total length longer than the frame */
	XDPFW_REASON_INVALID_IPV6_HEADER,	/* cut short */
	XDPFW_REASON_INVALID_IPV6_VERSION,
	XDPFW_REASON_INVALID_IPV6_LENGTH,	/* payload length longer than the frame */
	XDPFW_REASON_INVALID_EXTENSION_HEADERS,	/* more than MAX_EXTENSION_HEADERS */
	XDPFW_REASON_INVALID_EXTENSION,		/* an extension header cut short */
	XDPFW_REASON_INVALID_FIRST_FRAGMENT,	/* too short for its headers up to and with L4 */
	XDPFW_REASON_INVALID_L4_HEADER,		/* cut short */
	XDPFW_REASON_INVALID_TCP_OFFSET,	/* data offset below 5 */
	XDPFW_REASON_COUNT,
};

/*
 * Where the tables of one policy lie in the map "tables", one value made of 64-byte blocks. A base counts elements
 * of the table's own type (u16, u32, u64, struct xdpfw_entry) from its start and is a multiple of what one block
 * holds. These are constants to the verifier: what a policy does not use is dead code.
 */

/*
 * value -> class of a field (u16), which steps on through the combining tables of a group: the step before leads to
 * where the row of all that was combined so far begins, u32[step + class] is the next step. That of a group's last field
 * is the combined class itself.
 */
struct xdpfw_field_table {
	__u32 used;		/* 0: no rule looks at this field */
	__u32 classes;		/* base: class = u16[classes + value]; 0: the value is the class */
	__u32 group;		/* which combined class this field goes into */
};

/*
 * How the addresses of one direction are classified, by a trie (enum xdpfw_trie). A leaf is one entry, at
 * entries[leaves + leaf]; leaves 0: there is nothing but wide classes, and the number of the leaf is it.
 */
struct xdpfw_direction_table {
	__u32 used;		/* 0: no rule looks at this direction's addresses; the leaf is 0 */
	__u32 root_v4;		/* base: u32[root + first ROOT_BITS bits of the address] is an entry of the trie */
	__u32 root_v6;
	__u32 no_address_leaf;	/* of packets that are not IP */
	__u32 leaves;		/* base: struct xdpfw_entry */
	__u32 wide;		/* base: u64[wide + wide_class * vector_words + word], rules in the wide group */
	__u32 conditions;	/* base: u64[conditions + wide_class * condition_words + word], wide conditions */
	__u32 condition_words;
	__u32 sets_used;	/* 1: a condition on this direction's addresses looks at sets with files */
	__u32 sets_wide;	/* base, in the map set_tables: u64[sets_wide + set_class * vector_words + word] */
};

/* How many elements of each size a map of tables has room for. */
struct xdpfw_bounds {
	__u32 u16s;
	__u32 u32s;
	__u32 u64s;		/* struct xdpfw_row, too */
	__u32 entries;		/* struct xdpfw_entry */
	__u32 half_blocks;
	__u32 blocks;
};

/*
 * Sets with files, which may change while the rules stay. One trie, in the map set_tables, gives an address its set
 * class; it says which of the conditions that name such sets hold, whichever direction's they are.
 */
struct xdpfw_set_table {
	__u32 bytes;		/* of the map set_tables' only value; 0: no rule looks at such sets */
	struct xdpfw_bounds bounds;
	__u32 root_v4;
	__u32 root_v6;
	__u32 no_address_class;
	__u32 conditions;	/* base: u64[conditions + set_class * condition_words + word] */
	__u32 condition_words;
};

/* Bit vectors of one combined class of small fields. */
struct xdpfw_group_table {
	__u32 first_step;	/* base of the first field's combining table, of one row */
	__u32 predicates;	/* base: u64[predicates + class * predicate_words + word] */
	__u32 wide;		/* base: u64[wide + class * vector_words + word] */
};

/* How far a packet comes, for benchmarks that take the pipeline apart. */
enum xdpfw_stage {
	XDPFW_STAGE_ALL = 0,
	XDPFW_STAGE_START = 1,		/* tables and scratch found, the packet's room cleared */
	XDPFW_STAGE_PARSE = 2,
	XDPFW_STAGE_STATE = 3,		/* allowances, grants */
	XDPFW_STAGE_FIELDS = 4,		/* classes of the small fields */
	XDPFW_STAGE_ADDRESSES = 5,	/* leaves of the addresses */
	XDPFW_STAGE_CLASSIFY = 6,	/* the rule */
};

struct xdpfw_allow {
	__u32 arp;
	__u32 ndp;
	__u32 dhcp;
	__u32 icmp_errors;
	__u32 established;
	__u32 fragments;
};

/*
 * A rule as tables have it, its key: its number and, in the low bits, what it does where that is all that there is to
 * it. Keys are in the order of rules. Above them are flags of rows.
 */
enum xdpfw_key {
	XDPFW_KEY_DROP = 0,
	XDPFW_KEY_PASS = 1,
	XDPFW_KEY_LOOK_UP = 7,		/* the map "actions" says */
	XDPFW_KEY_ACTION_MASK = 7,
	XDPFW_KEY_SHIFT = 3,
	XDPFW_KEY_NONE = 0x07ffffff,	/* no rule: behind all */
	XDPFW_KEY_MASK = 0x07ffffff,
};

/*
 * A row: rules in order, of which the first that holds wins. One entry by itself; or, by its flags, a LIST of entries
 * from rows[reference] on, the last of which has LAST; or a DISPATCH: the row is dispatch[reference + combined class
 * of a group]. The key of a list and of a dispatch is that of its first rule; KEY_NONE: the row is empty.
 *
 * An entry holds if its predicate does and, where other is not 0, a condition on the address of the opposite
 * direction: OTHER_SET: other - 1 of sets with files, else other - 1 of the wide ones.
 */
struct xdpfw_row {
	__u32 key;		/* enum xdpfw_key, enum xdpfw_row_flag */
	__u32 condition;	/* predicate | other << ROW_OTHER_SHIFT; or a reference */
};

enum xdpfw_row_flag {
	XDPFW_ROW_LAST = 0x10000000,
	XDPFW_ROW_LIST = 0x20000000,
	XDPFW_ROW_DISPATCH = 0x40000000,
	XDPFW_ROW_GROUP_SHIFT = 28,	/* of a dispatch's reference */
	XDPFW_ROW_REFERENCE_MASK = 0xfffffff,
	XDPFW_ROW_PREDICATE_MASK = 0xffff,
	XDPFW_ROW_OTHER_SHIFT = 16,
	XDPFW_ROW_OTHER_SET = 0x8000,
	XDPFW_ROW_OTHER_MASK = 0x7fff,
};

struct xdpfw_config {
	__u32 table_bytes;		/* of the map tables' only value */
	struct xdpfw_bounds bounds;
	__u32 derives_verdicts;		/* the loader's, 1: verdicts that follow from rule or reason are not counted */
	__u32 trace;			/* 1: write each decision to the map "trace" (tests, replay) */
	__u32 stop_after;		/* the loader's, for benchmarks: enum xdpfw_stage */
	__u32 interface_count;
	__u32 interface_factor;		/* slot of an ifindex: (u32)(ifindex * factor) >> 24 */
	__u32 default_verdict;
	__u32 invalid_verdict;
	struct xdpfw_allow allow;
	__u32 rule_count;
	__u32 group_count;
	__u32 unusual_fields;		/* 1: rules look at fields behind FIELD_DETAIL */
	__u32 predicate_words;
	__u32 wide_words;		/* of a vector's words, those of rules that decide */
	__u32 count_words;		/* those of rules that only count, behind the others */
	__u32 vector_words;		/* of a whole vector: those two, and the summary if there is one */
	__u32 summary_word;		/* bit i: word i of wide_words has a bit; 0: there is one word, and no summary */
	__u32 wide_first;		/* key of the first rule in the wide group */
	__u32 wide_rules;		/* base: u32[wide_rules + bit] is the key of a vector's bit */
	__u32 rows;			/* base: struct xdpfw_row */
	__u32 dispatch;			/* base: struct xdpfw_row, by combined class */
	__u32 anywhere_used;		/* 0: no rule without a condition on addresses */
	struct xdpfw_row anywhere;	/* their row */
	__u32 pair_blocks;		/* base: blocks, each a bucket of struct xdpfw_pair */
	__u32 pair_bucket_mask;		/* number of buckets - 1 */
	__u32 pairs_used;		/* 0: no rule in the group of pairs */
	__u32 source_rows_used;		/* 0: no rule in the group of narrow sources */
	__u32 destination_rows_used;
	__u32 knock_rules;		/* so many of the first rules are not the policy's but those of knocks */
	__u32 sequence_count;
	__u32 knock_count;
	__u32 rotation_count;
	__u32 knocked_count;
	__u32 logs;			/* 1: a rule logs */
	__u32 tracks;			/* 1: something depends on whether packets belong to flows */
	__u32 state_used;		/* 1: rules look at FIELD_STATE */
	__u32 limit_count;
	__u32 adds;			/* 1: a rule has add_to */
	__u32 routes;			/* 1: a rule has ACTION_ROUTE */
	__u32 spreads;			/* 1: a rule has ACTION_CPU */
	__u32 protects_syn;		/* 1: the map "protected_ports" has some */
	__u32 set_count;		/* dynamic sets of the policy; number 0, the bans, is always there */
	__u32 asked_set_count[2];	/* DIRECTION_COUNT: so many of asked_sets are in use */
	__u32 asked_sets[16];		/* DIRECTION_COUNT * MAX_ASKED_SETS: numbers of dynamic sets */
	__u32 set_slots[16];		/* MAX_DYNAMIC_SETS, the loader's: by number, the slot in the maps of sets */
	__u32 never_ban_used;		/* 1: the map "never_ban" has prefixes */
	__u32 never_ban_sets;		/* bit n: so are the members of dynamic set number n */
	__u32 flow_mask;		/* the loader's: number of buckets - 1 */
	__u32 incoming_mask;
	__u32 limit_mask;
	__u32 fragment_mask;
	__u32 acquaintance_mask;
	__u32 counts;			/* 1: a rule only counts */
	__u32 generation;		/* the loader's: its number, for events */
	__u32 beginning_mask;		/* the loader's: number of buckets - 1 */
	__u32 progress_mask;
	__u64 hash_secret[2];		/* the loader's: see struct xdpfw_shared */
	__u64 word_secrets[5];		/* made from it: see keyed.h */
	__u32 knocked[8];		/* MAX_KNOCKED: numbers of the knocks behind FIELD_KNOCKED's bits */
	struct xdpfw_field_table fields[18];		/* FIELD_COUNT */
	struct xdpfw_field_table macs[6];		/* MAC_COUNT * MAC_PARTS; each address is a group of its own */
	__u32 mac_steps[2];				/* MAC_COUNT: as first_step */
	struct xdpfw_direction_table directions[2];	/* DIRECTION_COUNT */
	struct xdpfw_set_table sets;
	struct xdpfw_group_table groups[8];		/* MAX_GROUPS */
};

/* The 16-byte elements of the tables. */
struct xdpfw_entry {
	__u32 word[4];
};

/* An address's leaf. */
struct xdpfw_leaf {
	__u32 pair_class;	/* class in the group of pairs; 0: none of its rules */
	__u32 wide_class;
	struct xdpfw_row row;	/* in the group of this direction alone */
};

/* A slot of a bucket of pairs; both classes 0: empty. */
struct xdpfw_pair {
	__u32 src_class;
	__u32 dst_class;
	struct xdpfw_row row;
};

/*
 * An entry of a trie: the number of a leaf; or, by its top bits, a node, which fills one 64-byte block of that number or
 * more. The key is the first 64 bits of the address, IPv4 on top, shifted right.
 *
 *   NODE_16     16 entries: that at key & 15
 *   NODE_256    256 entries, 16 blocks: that at key & 255
 *   SEARCH      7 boundaries less 1, ascending, then 8 entries: that at the number of boundaries that are not above
 *               the lower 32 bits of the key. Unused boundaries are 0xffffffff.
 *   SEARCH_3    the same with 3 boundaries and 4 entries: its number counts half blocks
 *   LOW         from here on the key is the other 64 bits; the block's first entry leads on
 */
enum xdpfw_trie {
	XDPFW_TRIE_LEAF = 0,
	XDPFW_TRIE_NODE_16 = 1,
	XDPFW_TRIE_NODE_256 = 2,
	XDPFW_TRIE_SEARCH = 3,
	XDPFW_TRIE_SEARCH_3 = 4,
	XDPFW_TRIE_LOW = 5,
	XDPFW_TRIE_KIND_SHIFT = 29,
	XDPFW_TRIE_SHIFT_SHIFT = 23,
	XDPFW_TRIE_SHIFT_MASK = 63,
	XDPFW_TRIE_NUMBER_MASK = 0x7fffff,
	XDPFW_TRIE_BOUNDARIES = 7,
	XDPFW_TRIE_FEW_BOUNDARIES = 3,
	XDPFW_TRIE_MAX_STEPS = 29,	/* 28 that resolve 4 bits or more behind the root's, and LOW */
};

/* What the loader looks for in 64-bit immediates, in the upper half; the lower one is an offset in xdpfw_config. */
enum xdpfw_mark {
	XDPFW_MARK_WORD = 0x7864666b,	/* a member of 32 bits */
	XDPFW_MARK_DOUBLE = 0x7864666c,	/* or of 64 */
};

enum xdpfw_action_kind {
	XDPFW_ACTION_DROP = 0,
	XDPFW_ACTION_PASS = 1,
	XDPFW_ACTION_TX = 2,
	XDPFW_ACTION_REDIRECT = 3,
	/* Of the rules of knocks: */
	XDPFW_ACTION_STEP = 4,		/* target: number of a struct xdpfw_token */
	XDPFW_ACTION_GUARD = 5,		/* target: number of a struct xdpfw_guard */
	XDPFW_ACTION_SPA = 6,		/* target: number of a struct xdpfw_spa_port */
	XDPFW_ACTION_ROTATION = 7,	/* target: number of a struct xdpfw_rotation */
	/* Of the policy's again: */
	XDPFW_ACTION_ROUTE = 8,
	XDPFW_ACTION_CPU = 9,		/* target: the first of cpu_count elements of the map "cpu_choices" */
};

enum xdpfw_action_flag {
	XDPFW_ACTION_SET_SRC_MAC = 1,
	XDPFW_ACTION_SET_DST_MAC = 2,
	XDPFW_ACTION_PLAIN = 4,		/* nothing but a verdict, which the rule's key has: it is not looked up */
	XDPFW_ACTION_ADD_EXCEEDED = 8,	/* add_to only where the limit is exceeded */
};

/* Value of the map "actions", by rule. */
struct xdpfw_action {
	__u8 kind;
	__u8 flags;
	__u8 src_mac[6];
	__u8 dst_mac[6];
	__u16 cpu_count;
	__u32 target;		/* ACTION_REDIRECT: slot in the map "targets" */
	__u32 log_sample;	/* an event for one in so many matches; 0: none */
	__u32 limit;		/* number of a struct xdpfw_rate, from 1; 0: none */
	__u32 add_to;		/* number of a dynamic set of the policy, from 1 (see config.set_slots); 0: none */
	__u64 add_ns;		/* how long the source stays in it; 0: for good */
};

/* Value of the map "interfaces", by slot. */
struct xdpfw_interface {
	__u32 ifindex;		/* 0: empty */
	__u32 index;		/* in the policy */
};

/*
 * Value of the per-CPU maps "counters" (first one slot a reason, then one a rule) and "verdicts" (slot
 * interface * VERDICT_COUNT + verdict; interface NO_INTERFACE is any that the policy does not name).
 */
struct xdpfw_counter {
	__u64 packets;
	__u64 bytes;		/* of whole frames, Ethernet header included */
};

/* Value of the map "trace": the last decision, and the time of test runs. */
struct xdpfw_trace {
	__u32 verdict;
	__u32 reason;
	__u32 rule;
	__u32 padding;
	__u64 boot_ns;		/* what CLOCK_BOOTTIME has */
	__u64 wall_ns;		/* since 1970, without leap seconds */
};

/* cffi: end */

#endif
