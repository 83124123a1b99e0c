// statistics.cpp: how the accesses of a warp fall: sectors of 32 bytes that a request to global memory needs, ways of a conflict among the 32 banks
// of shared memory.  The k-th access of each lane at one place is one request, whatever path the lanes took to it.
#include "emu.h"
#include <algorithm>
#include <map>
#include <set>
#include <unordered_map>

namespace emu {

struct Request {
    uintptr_t address[WARP];
    uint32_t have;
    int size;
    bool shared, write;
};
struct Site {
    long requests, lanes, sectors, ideal, ways, phases;
    bool shared, write;
    int size;
};
using Key = std::pair<uintptr_t, uint32_t>; // place, how often its lane was there
static std::map<Key, Request> requests[MAX_THREADS / WARP];
static std::unordered_map<uintptr_t, uint32_t> visits[MAX_THREADS];
static std::map<uintptr_t, Site> sites;

void statistics_add(uintptr_t address, int size, bool shared, bool write, uintptr_t pc)
{
    const Ids &ids = machine.current->ids;
    Request &r = requests[ids.warp][Key{pc, visits[ids.linear][pc]++}];
    r.address[ids.lane] = address;
    r.have |= 1u << ids.lane;
    r.size = size;
    r.shared = shared;
    r.write = write;
}

static void count_sectors(const Request &r, Site &s)
{
    std::set<uintptr_t> sectors, addresses;
    for (int i = 0; i < WARP; i++) {
        if (!(r.have >> i & 1))
            continue;
        uintptr_t last = r.address[i] + static_cast<unsigned>(r.size) - 1;
        for (uintptr_t b = r.address[i] / 32; b <= last / 32; b++)
            sectors.insert(b);
        addresses.insert(r.address[i]);
    }
    s.sectors += static_cast<long>(sectors.size());
    s.ideal += (static_cast<long>(addresses.size()) * r.size + 31) / 32;
}

// Accesses of 8 and 16 bytes go in 2 and 4 phases.
static void count_ways(const Request &r, Site &s)
{
    int lanes = r.size == 16 ? 8 : r.size == 8 ? 16 : WARP;
    for (int first = 0; first < WARP; first += lanes) {
        std::set<uintptr_t> words[32];
        size_t most = 0;
        for (int i = first; i < first + lanes; i++)
            for (int b = 0; (r.have >> i & 1) && b < (r.size + 3) / 4; b++) {
                uintptr_t word = r.address[i] / 4 + static_cast<unsigned>(b);
                words[word % 32].insert(word);
                most = std::max(most, words[word % 32].size());
            }
        s.ways += static_cast<long>(most);
        s.phases += most > 0;
    }
}

void statistics_block()
{
    if (!machine.stats)
        return;
    for (auto &warp : requests) {
        for (auto &kv : warp) {
            const Request &r = kv.second;
            Site &s = sites[kv.first.first];
            s.requests++;
            s.lanes += __builtin_popcount(r.have);
            s.shared = r.shared;
            s.write = r.write;
            s.size = r.size;
            r.shared ? count_ways(r, s) : count_sectors(r, s);
        }
        warp.clear();
    }
    for (auto &v : visits)
        v.clear();
}

} // namespace emu

extern "C" void emu_print_stats(const char *title)
{
    printf("%s\n%-40s %5s %5s %9s %6s  sectors a request (ideal), or ways\n", title, "place", "kind", "bytes", "requests", "lanes");
    for (auto &kv : emu::sites) {
        const emu::Site &s = kv.second;
        double n = static_cast<double>(s.requests);
        printf("%-40s %5s %5d %9ld %6.1f  ", emu::place_name(kv.first).c_str(), s.shared ? (s.write ? "sts" : "lds") : s.write ? "stg" : "ldg",
               s.size, s.requests, static_cast<double>(s.lanes) / n);
        if (s.shared)
            printf("%.2f ways%s\n", static_cast<double>(s.ways) / static_cast<double>(s.phases), s.ways > s.phases ? "  bank conflict" : "");
        else
            printf("%.2f (%.2f)%s\n", static_cast<double>(s.sectors) / n, static_cast<double>(s.ideal) / n,
                   10 * s.sectors > 13 * s.ideal ? "  not coalesced" : "");
    }
    emu::sites.clear();
}
