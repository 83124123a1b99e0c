// tensor.cpp: mma.sync, ldmatrix and cp.async, by the fragment layouts of the PTX manual (9.7.14.5, 9.7.14.5.15, 9.7.9.25).
//
// With g = lane / 4 and t = lane % 4, the 16 x 8 x 16 product has in a lane
//     A  a[r] halves e:  row g + 8 (r & 1),  column 2t + 8 (r >> 1) + e
//     B  b[r] halves e:  row 2t + 8 r + e,   column g
//     C  d[r]:           row g + 8 (r >> 1), column 2t + (r & 1)
// Products are exact and summed in double, rounded once: a tensor core truncates while it adds, so its last bits differ.
#include "emu.h"

namespace emu {

static float half_value(uint32_t pair, int which, bool bf16)
{
    uint16_t h = static_cast<uint16_t>(pair >> 16 * which);
    if (bf16)
        return unpack<float>(static_cast<uint32_t>(h) << 16);
    __half_raw r;
    r.x = h;
    return __half2float(__half(r));
}

void mma_execute(Fiber *warp)
{
    float A[16][16];
    double B[16][8];
    for (int lane = 0; lane < WARP; lane++) {
        const Fiber &f = warp[lane];
        int g = lane >> 2, t = lane & 3;
        for (int r = 0; r < 4; r++)
            for (int e = 0; e < 2; e++)
                A[g + 8 * (r & 1)][2 * t + 8 * (r >> 1) + e] = half_value(f.a[r], e, f.flag);
        for (int r = 0; r < 2; r++)
            for (int e = 0; e < 2; e++)
                B[2 * t + 8 * r + e][g] = half_value(f.b[r], e, f.flag);
    }
    for (int row = 0; row < 16; row++) {
        double sum[8];
        for (int c = 0; c < 8; c++)
            sum[c] = warp[(row & 7) * 4 + c / 2].d[(row >> 3) * 2 + (c & 1)];
        for (int k = 0; k < 16; k++)
            for (int c = 0; c < 8; c++)
                sum[c] += static_cast<double>(A[row][k]) * B[k][c];
        for (int c = 0; c < 8; c++)
            warp[(row & 7) * 4 + c / 2].d[(row >> 3) * 2 + (c & 1)] = static_cast<float>(sum[c]);
    }
    machine.counts.mma++;
}

void mma_m16n8k16(float d[4], const uint32_t a[4], const uint32_t b[2], bool bf16, int line)
{
    Fiber *f = machine.current;
    f->a = a;
    f->b = b;
    f->d = d;
    f->flag = bf16;
    warp_wait(WAIT_EXCHANGE, X_MMA, ~0u, line);
}

// Matrix r of four is 8 rows of 16 bytes whose addresses come from lanes 8r .. 8r+7; a lane gets two of its values.
void ldmatrix_execute(Fiber *warp)
{
    for (int lane = 0; lane < WARP; lane++) {
        int g = lane >> 2, t = lane & 3;
        for (int r = 0; r < 4; r++) {
            uint32_t pair = 0;
            for (int e = 0; e < 2; e++) {
                int row = warp[lane].flag ? 2 * t + e : g, column = warp[lane].flag ? g : 2 * t + e;
                uint16_t half;
                memcpy(&half, static_cast<const char *>(warp[8 * r + row].row) + 2 * column, 2);
                pair |= static_cast<uint32_t>(half) << 16 * e;
            }
            warp[lane].loaded[r] = pair;
        }
    }
    machine.counts.ldmatrix++;
}

void ldmatrix_x4(uint32_t r[4], const void *row, bool trans, int line)
{
    Fiber *f = machine.current;
    access(const_cast<void *>(row), 16, false, false, EMU_CALLER);
    f->loaded = r;
    f->row = row;
    f->flag = trans;
    warp_wait(WAIT_EXCHANGE, X_LDMATRIX, ~0u, line);
}

// cp.async lands as late as it may: at the wait.  Where the wait is missing, the data is still what was there before.
void cp_async16(void *smem, const void *gmem, int src_bytes)
{
    Fiber *f = machine.current;
    f->copies.push_back({static_cast<char *>(smem), static_cast<const char *>(gmem), src_bytes, f->copy_group});
}

void cp_async_commit()
{
    machine.current->copy_group++;
}

void cp_async_wait(int groups)
{
    Fiber *f = machine.current;
    size_t kept = 0;
    for (const Copy &c : f->copies) {
        if (c.group >= f->copy_group - groups) {
            f->copies[kept++] = c;
            continue;
        }
        if (c.bytes)
            access(const_cast<char *>(c.from), c.bytes, false, false, EMU_CALLER);
        access(c.to, 16, true, false, EMU_CALLER);
        memset(c.to, 0, 16);
        memcpy(c.to, c.from, static_cast<size_t>(c.bytes));
    }
    f->copies.resize(kept);
}

} // namespace emu
